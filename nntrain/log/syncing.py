"""Waiting for a disk beside the training: `fsync` takes milliseconds, of which the processor has to do nothing."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor


class Syncing:
    """Syncs files in a thread of its own, one at a time, and keeps what went wrong until it is asked."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._asked: list[Future[None]] = []

    def ask(self, file: int) -> None:
        """Have what was written to `file` synced. Raises `OSError` for what went wrong since the last time."""
        if self._process != os.getpid():  # the thread stayed behind in the process that was forked
            self._process, self._pool, self._asked = os.getpid(), None, []
        done = [one for one in self._asked if one.done()]
        self._asked = [one for one in self._asked if not one.done()]
        if len(self._asked) < 2:  # one that has not begun will sync this as well
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="nntrain-log-sync")
            self._asked.append(self._pool.submit(_sync, os.dup(file)))
        for one in done:
            one.result()

    def wait(self) -> None:
        """Wait until all that was asked for is on the disk. Raises `OSError` for what went wrong."""
        asked, self._asked = self._asked, []
        if self._process == os.getpid():
            for one in asked:
                one.result()

    def close(self) -> None:
        """Wait, and end the thread."""
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
