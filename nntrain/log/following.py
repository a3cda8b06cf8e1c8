"""A log read while it is written: its lines as they come, through rotation and whatever else befalls the file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from nntrain.errors import ConfigError
from nntrain.log.line import Line
from nntrain.log.reading import LONGEST, BadLine, LogReadError, line_of

_CHUNK: Final = 1 << 20
_ENDS: Final = frozenset({"run_finished", "run_failed"})


def follow(
    path: str | os.PathLike[str],
    *,
    poll_s: float = 0.2,
    until_finished: bool = True,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Line]:
    """Yield the lines of the log at `path`, those that are there and those that come, each when it is whole.

    A file that is not there yet is waited for. Where another file comes to be at the path, as after a rotation, what
    is left of the old one is read first; a file that was cut to nothing is read from its beginning.

    Args:
        path: of the log.
        poll_s: seconds between two looks at a file that has not grown.
        until_finished: end when every run that was seen has finished or failed, and nothing follows.
        stop: asked before each wait; True ends.

    Raises `LogReadError` for a line that is none, with its number and byte offset, and for a path that cannot be read.
    """
    if not poll_s > 0:
        raise ConfigError(f"poll_s is {poll_s!r}; expected a number of seconds above 0.")
    tail = _Tail(Path(path))
    unfinished: set[tuple[str, int]] = set()
    seen = False
    try:
        while True:
            waiting = True
            for line in tail.lines():
                waiting, seen = False, True
                run = line.run_id, line.rank
                if line.event.event in _ENDS:
                    unfinished.discard(run)
                else:
                    unfinished.add(run)
                yield line
            if not waiting or tail.moved_on():
                continue
            if (until_finished and seen and not unfinished) or (stop is not None and stop()):
                return
            time.sleep(poll_s)
    finally:
        tail.close()


class _Tail:
    """The file at a path, as far as it was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._number = 0
        self._offset = 0
        self._rest = b""

    def lines(self) -> Iterator[Line]:
        """Give the whole lines that have come since."""
        if self._file is None and not self._open():
            return
        while content := self._read():
            *whole, self._rest = (self._rest + content).split(b"\n")
            for one in whole:
                yield self._line(one + b"\n")
            if len(self._rest) >= LONGEST:
                self._line(self._rest)

    def moved_on(self) -> bool:
        """Tell whether another file is at the path now, or the same was cut, and go there."""
        if self._file is None:
            return False
        mine = os.fstat(self._file)
        try:
            there = self._path.stat()
        except OSError:  # between the old one and the new one, or for good
            return False
        if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
            if mine.st_size >= self._offset + len(self._rest):
                return False
            os.lseek(self._file, 0, os.SEEK_SET)
        else:
            self.close()
        self._number, self._offset, self._rest = 0, 0, b""
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> bool:
        try:
            self._file = os.open(self._path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        return True

    def _read(self) -> bytes:
        if self._file is None:
            return b""
        try:
            return os.read(self._file, _CHUNK)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError | ValueError) -> LogReadError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return LogReadError(str(self._path), "unreadable", f"it cannot be read ({reason}). Give a log's path")

    def _line(self, content: bytes) -> Line:
        self._number += 1
        found = line_of(content, self._number, self._offset)
        self._offset += len(content)
        if isinstance(found, Line):
            return found
        if isinstance(found, BadLine):
            raise LogReadError(str(self._path), found.problem, found.reason, found.line, found.offset)
        raise LogReadError(str(self._path), "torn", "the line is torn", found.line, found.offset)
