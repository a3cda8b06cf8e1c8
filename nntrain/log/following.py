"""A log read while it is written: its lines as they come, through rotation and whatever else befalls the file."""

from __future__ import annotations

import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from nntrain.errors import ConfigError, LogWarning
from nntrain.log.line import Line
from nntrain.log.reading import LONGEST, BadLine, LogReadError, TornLine, line_of, read

_CHUNK: Final = 1 << 20
_HEAD: Final = 512
"""Bytes by which a file is known again: a first line's time, run and number are among them."""
_ENDS: Final = frozenset({"run_finished", "run_failed"})
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""A named pipe that nobody writes to is not waited for in the call that opens it."""


def follow(
    path: str | os.PathLike[str],
    *,
    poll_s: float = 0.2,
    until_finished: bool = True,
    stop: Callable[[], bool] | None = None,
    on_torn: Callable[[TornLine], object] | None = None,
) -> Iterator[Line]:
    """Yield the lines of the log at `path`, those that are there and those that come, each when it is whole.

    A file that is not there yet is waited for. Where another file comes to be at the path, as after a rotation, what
    is left of the old one is read first; a file that was cut to nothing is read from its beginning. `-` is the
    standard input, which is read to its end.

    Args:
        path: of the log.
        poll_s: seconds between two looks at a file that has not grown.
        until_finished: end when every run that was seen has finished or failed, and nothing follows.
        stop: asked after each line and before each wait; True ends. The `is_set` of an event is one.
        on_torn: told of a last line that stays torn: of a file that was rotated away, or when all runs have ended.
            Without it there is a `LogWarning`.

    Raises `LogReadError` for a line that is none, with its number and byte offset, and for a path that cannot be read.
    """
    if not poll_s > 0:
        raise ConfigError(f"poll_s is {poll_s!r}; expected a number of seconds above 0.")
    asked = stop if stop is not None else lambda: False
    if str(path) == "-":
        yield from _until(asked, read(path, on_torn=on_torn))
        return
    tail = _Tail(Path(path), on_torn if on_torn is not None else lambda torn: _warn(str(path), torn))
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
                if asked():
                    return
            if not waiting or tail.moved_on():
                continue
            if until_finished and seen and not unfinished and not tail.leaving:
                tail.tear()
                return
            if asked():
                return
            time.sleep(poll_s)
    finally:
        tail.close()


def _until(asked: Callable[[], bool], lines: Iterator[Line]) -> Iterator[Line]:
    for line in lines:
        yield line
        if asked():
            return


def _warn(path: str, torn: TornLine) -> None:
    warnings.warn(f"{path}: a last line is torn; its {torn.bytes} bytes are skipped", LogWarning, stacklevel=5)


class _Tail:
    """The file at a path, as far as it was read.

    `leaving` says that another file is at the path: whoever has the old one open may still write to it, so it is read
    once more, a while later, before the other one is.
    """

    def __init__(self, path: Path, on_torn: Callable[[TornLine], object]) -> None:
        self.leaving = False
        self._path = path
        self._on_torn = on_torn
        self._file: int | None = None
        self._regular = True
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._number = 0
        self._offset = 0
        self._rest = b""
        self._head = b""

    def lines(self) -> Iterator[Line]:
        """Give the whole lines that have come since."""
        if self._file is None and not self._open():
            return
        if self._regular:
            self._rest = b""  # it is read again: a training that goes on cuts off what a crash left
        while content := self._read():
            *whole, rest = (self._rest + content).split(b"\n")
            self._rest = b""
            for one in whole:
                yield self._line(one + b"\n")
            if len(rest) >= LONGEST or b"\0" in rest:
                self._line(rest)
            if not (whole and self._regular):  # as above, and who takes the lines may take a while
                self._rest = rest

    def moved_on(self) -> bool:
        """Tell whether another file is at the path, for a while now, and go there."""
        if self._file is None:
            return False
        mine = os.fstat(self._file)
        try:
            there = self._path.stat()
        except OSError:  # between the old one and the new one, or for good
            self.leaving = False
            return False
        another = (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)
        if not another or not self.leaving:
            self.leaving = another
            return False
        self.tear()
        self.close()
        self._begin_anew()
        return True

    def tear(self) -> None:
        """Tell of a last line that nothing will come to."""
        if self._rest:
            self._on_torn(TornLine(self._number + 1, self._offset, len(self._rest)))

    def close(self) -> None:
        """Close the file."""
        self.leaving = False
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> bool:
        try:
            self._file = os.open(self._path, _FLAGS)
            self._regular = stat.S_ISREG(os.fstat(self._file).st_mode)
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        return True

    def _read(self) -> bytes:
        """Give what comes next, or comes first where the file is not the one that it was."""
        if self._file is None:
            return b""
        try:
            if self._regular:
                if self._was_cut(self._file):
                    self._begin_anew()
                os.lseek(self._file, self._offset + len(self._rest), os.SEEK_SET)
            content = os.read(self._file, _CHUNK)
        except BlockingIOError:  # a pipe with nothing in it
            return b""
        except OSError as error:
            raise self._unreadable(error) from error
        place = self._offset + len(self._rest)
        if place < _HEAD:
            self._head = (self._head[:place] + content)[:_HEAD]
        return content

    def _was_cut(self, file: int) -> bool:
        """Tell whether what was read is there no more; the file may have grown beyond it again."""
        if os.fstat(file).st_size < self._offset:
            return True
        os.lseek(file, 0, os.SEEK_SET)
        known = self._head[: self._offset]
        return os.read(file, len(known)) != known

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
