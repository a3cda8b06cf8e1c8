"""Reading a log while it is written: its lines as they come, even if the file is rotated, truncated or missing."""

from __future__ import annotations

import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from nntrain.errors import ConfigError, LogWarning
from nntrain.log.line import Line
from nntrain.log.rank_files import log_files
from nntrain.log.reading import LONGEST, BadLine, LogReadError, TornLine, line_of, read, unreadable

_CHUNK: Final = 1 << 20
_HEAD_BYTES: Final = 512
"""Bytes at a file's beginning by which it is recognized: they hold the first line's time, run and number."""
_END_EVENTS: Final = frozenset({"run_finished", "run_failed"})
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""O_NONBLOCK: opening a named pipe that nobody writes to returns at once."""


class Waiting(NamedTuple):
    """What `watch` yields where no line has come: for how many seconds, and whether there is a file at all."""

    seconds: float
    there: bool


def follow(
    path: str | os.PathLike[str],
    *,
    poll_s: float = 0.2,
    until_finished: bool = True,
    stop: Callable[[], bool] | None = None,
    on_torn: Callable[[TornLine], object] | None = None,
) -> Iterator[Line]:
    """Yield the lines of the log at `path`, those that are there and those that come, each once it is complete.

    As with `read` that is each `*.jsonl` of a folder, and `run.jsonl` with the files of other ranks beside it, also
    those that come later. A file that does not exist yet is waited for. If a file is replaced by another, as by a
    rotation, the rest of the old one is read first; one that was truncated is read from its beginning. `-` is the
    standard input, which is read to its end.

    Args:
        path: of the log, or a folder.
        poll_s: seconds between two reads of a file that has not grown.
        until_finished: end when every run seen so far has finished or failed, and no line follows.
        stop: called after each line and before each wait; if it returns True, following ends. A threading event's
            `is_set` will do.
        on_torn: called with a last line that stays torn: that of a file that was rotated away, or the last one when
            all runs have ended. Without it there is a `LogWarning`.

    Raises `LogReadError` for an invalid line, with its number and byte offset, and for a path that cannot be read.
    """
    lines = watch(path, poll_s=poll_s, until_finished=until_finished, stop=stop, on_torn=on_torn)
    return (one for one in lines if isinstance(one, Line))


def watch(
    path: str | os.PathLike[str],
    *,
    poll_s: float = 0.2,
    until_finished: bool = True,
    stop: Callable[[], bool] | None = None,
    on_torn: Callable[[TornLine], object] | None = None,
) -> Iterator[Line | Waiting]:
    """Yield what `follow` does, and a `Waiting` before each wait."""
    if not poll_s > 0:
        raise ConfigError(f"poll_s is {poll_s!r}; expected a number of seconds above 0.")
    should_stop = stop if stop is not None else lambda: False
    if str(path) == "-":
        yield from _until(should_stop, read(path, on_torn=on_torn))
        return
    tails = _Tails(path, on_torn)
    unfinished: set[tuple[str, int]] = set()
    seen = False
    last = time.monotonic()
    try:
        while True:
            waiting = True
            for line in tails.lines():
                waiting, seen, last = False, True, time.monotonic()
                run = line.run_id, line.rank
                if line.event.event in _END_EVENTS:
                    unfinished.discard(run)
                else:
                    unfinished.add(run)
                yield line
                if should_stop():
                    return
            if not waiting or tails.switch_files():
                continue
            if until_finished and seen and not unfinished and not tails.replaced:
                tails.report_torn()
                return
            if should_stop():
                return
            yield Waiting(time.monotonic() - last, tails.there)
            time.sleep(poll_s)
    finally:
        tails.close()


def _until(should_stop: Callable[[], bool], lines: Iterator[Line]) -> Iterator[Line]:
    for line in lines:
        yield line
        if should_stop():
            return


def _warn(path: str, torn: TornLine) -> None:
    warnings.warn(f"{path}: a last line is torn; its {torn.bytes} bytes are skipped", LogWarning, stacklevel=5)


class _Tails:
    """The files of a log, as `log_files` finds them, again and again."""

    def __init__(self, path: str | os.PathLike[str], on_torn: Callable[[TornLine], object] | None) -> None:
        self._path = path
        self._on_torn = on_torn
        self._tails: dict[Path, _Tail] = {}

    @property
    def replaced(self) -> bool:
        """Whether another file is now at the path of one."""
        return any(tail.replaced for tail in self._tails.values())

    @property
    def there(self) -> bool:
        """Whether there is a file at all."""
        return any(tail.there for tail in self._tails.values())

    def lines(self) -> Iterator[Line]:
        """Yield the complete lines that were added since the last call, file by file."""
        for file in log_files(self._path):
            if file not in self._tails:
                self._tails[file] = _Tail(file, self._on_torn or partial(_warn, str(file)))
            yield from self._tails[file].lines()

    def switch_files(self) -> bool:
        """Switch to files that have replaced others. Returns whether any did."""
        switched = [tail.switch_file() for tail in self._tails.values()]
        return any(switched)

    def report_torn(self) -> None:
        """Report last lines that will never be completed."""
        for tail in self._tails.values():
            tail.report_torn()

    def close(self) -> None:
        """Close the files."""
        for tail in self._tails.values():
            tail.close()


class _Tail:
    """The file at a path, and how far it was read.

    `replaced` says that another file is now at the path. A process that has the old one open may still write to it, so
    it is read once more, one poll later, before the new one is.
    """

    def __init__(self, path: Path, on_torn: Callable[[TornLine], object]) -> None:
        self.replaced = False
        self._path = path
        self._on_torn = on_torn
        self._file: int | None = None
        self._regular = True
        self._reset()

    def _reset(self) -> None:
        self._number = 0
        self._offset = 0
        self._rest = b""
        self._head = b""

    def lines(self) -> Iterator[Line]:
        """Yield the complete lines that were added since the last call."""
        if self._file is None and not self._open():
            return
        if self._regular:
            self._rest = b""  # it is read again: a resumed training cuts off the torn line that a crash left
        while content := self._read():
            *whole, rest = (self._rest + content).split(b"\n")
            self._rest = b""
            for one in whole:
                yield self._line(one + b"\n")
            if len(rest) >= LONGEST or b"\0" in rest:
                self._line(rest)
            if not (whole and self._regular):  # as above: much time may pass while the caller handles the lines
                self._rest = rest

    def switch_file(self) -> bool:
        """Switch to another file that has been at the path for one poll already. Returns whether it did."""
        if self._file is None:
            return False
        mine = os.fstat(self._file)
        try:
            there = self._path.stat()
        except OSError:  # the old file is gone, and there is no new one (yet)
            self.replaced = False
            return False
        another = (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)
        if not another or not self.replaced:
            self.replaced = another
            return False
        self.report_torn()
        self.close()
        self._reset()
        return True

    @property
    def there(self) -> bool:
        """Whether a file was found at the path."""
        return self._file is not None

    def report_torn(self) -> None:
        """Report a last line that will never be completed."""
        if self._rest:
            self._on_torn(TornLine(self._number + 1, self._offset, len(self._rest)))

    def close(self) -> None:
        """Close the file."""
        self.replaced = False
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
            raise unreadable(self._path, error) from error
        return True

    def _read(self) -> bytes:
        """Return the next bytes; the first ones again if the file was truncated or rewritten."""
        if self._file is None:
            return b""
        try:
            if self._regular:
                if self._was_truncated(self._file):
                    self._reset()
                os.lseek(self._file, self._offset + len(self._rest), os.SEEK_SET)
            content = os.read(self._file, _CHUNK)
        except BlockingIOError:  # a pipe with nothing in it
            return b""
        except OSError as error:
            raise unreadable(self._path, error) from error
        place = self._offset + len(self._rest)
        if place < _HEAD_BYTES:
            self._head = (self._head[:place] + content)[:_HEAD_BYTES]
        return content

    def _was_truncated(self, file: int) -> bool:
        """Return whether what was read is no longer there; the file may have become longer than that again."""
        if os.fstat(file).st_size < self._offset:
            return True
        os.lseek(file, 0, os.SEEK_SET)
        known = self._head[: self._offset]
        return os.read(file, len(known)) != known

    def _line(self, content: bytes) -> Line:
        self._number += 1
        found = line_of(content, self._number, self._offset)
        self._offset += len(content)
        if isinstance(found, Line):
            return found
        if isinstance(found, BadLine):
            raise LogReadError(str(self._path), found.problem, found.reason, found.line, found.offset)
        raise LogReadError(str(self._path), "torn", "the line is torn", found.line, found.offset)
