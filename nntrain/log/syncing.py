"""`fsync` in a thread: it takes milliseconds, in which the processor is free for the training."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor


class Syncing:
    """Syncs files in its own thread, one at a time. An error is raised by a later call."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._requests: list[Future[None]] = []

    def start(self, file: int) -> None:
        """Start to sync what was written to `file`. Raises `OSError` if an earlier sync failed."""
        if self._process != os.getpid():  # after a fork the thread exists only in the parent process
            self._process, self._pool, self._requests = os.getpid(), None, []
        done = [one for one in self._requests if one.done()]
        self._requests = [one for one in self._requests if not one.done()]
        if len(self._requests) < 2:  # one that has not begun will sync this as well
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="nntrain-log-sync")
            self._requests.append(self._pool.submit(_sync, os.dup(file)))
        for one in done:
            one.result()

    def wait(self) -> None:
        """Wait until every requested sync is done. Raises `OSError` if one failed."""
        requests, self._requests = self._requests, []
        if self._process == os.getpid():
            for one in requests:
                one.result()

    def close(self) -> None:
        """Wait for the syncs, and end the thread."""
        try:
            self.wait()
        finally:
            if self._pool is not None and self._process == os.getpid():
                self._pool.shutdown()
            self._pool = None


def _sync(file: int) -> None:
    try:
        os.fsync(file)
    finally:
        os.close(file)
