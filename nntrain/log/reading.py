"""Reading a log: typed lines; a torn last line is skipped, and every other error is reported with its place."""

from __future__ import annotations

import heapq
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Final

from nntrain.errors import LogError, LogWarning
from nntrain.log.line import LINE_START, Line, LineError, Problem, parse_line
from nntrain.log.rank_files import SUFFIX, log_files

LONGEST: Final = 64 << 20
"""The most bytes that a line may have; a file with a longer one is not a log."""

Source = str | os.PathLike[str]
"""A path, or `-` for the standard input."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is invalid: what is wrong, and where. Lines count from 1, offsets (in bytes) from 0."""

    problem: Problem
    reason: str
    line: int
    offset: int


@dataclass(frozen=True, slots=True)
class TornLine:
    """A last line that a crash cut off: where it begins, and how many bytes of it there are."""

    line: int
    offset: int
    bytes: int


class LogReadError(LogError, ValueError):
    """A log that cannot be read: `problem` says what is wrong; `line` and `offset` say where, if a line is wrong."""

    def __init__(self, path: str, problem: Problem, reason: str, line: int | None = None, offset: int | None = None):
        where = "" if line is None else f", line {line} (byte offset {offset})"
        super().__init__(f"{path}{where}: {reason}.")
        self.path = path
        self.problem: Problem = problem
        self.line = line
        self.offset = offset


def read(path: Source, *, on_torn: Callable[[TornLine], object] | None = None) -> Iterator[Line]:
    """Yield the lines of the log at `path`, oldest first; of a folder, those of each `*.jsonl` in it.

    Where several processes trained together, `run.jsonl` is read with the files of the other ranks beside it,
    `run.rank1.jsonl` and so on: merged by the times of their lines, and at the same time by rank. The lines of each
    file keep their order. The file of a rank above 0 is read alone.

    A torn last line, which a crash may leave, is skipped: `on_torn` is called with it, or else there is a `LogWarning`.
    Raises `LogReadError` for any other invalid line, with its number and byte offset, and for a path that cannot be
    read. An empty file has no line.
    """
    files: Sequence[Source] = [path] if str(path) == "-" else log_files(path)
    if not files:
        raise LogReadError(str(path), "unreadable", f"there is no *{SUFFIX} in this folder. Give a log's path")
    yield from merged([_read_file(file, on_torn) for file in files])


def merged(logs: Sequence[Iterator[Line]]) -> Iterator[Line]:
    """Yield the lines of several logs in one order, which depends on the lines alone."""
    if len(logs) == 1:
        yield from logs[0]
    else:
        yield from (line for _, line in heapq.merge(*map(_placed, logs), key=itemgetter(0)))


def _placed(lines: Iterator[Line]) -> Iterator[tuple[tuple[object, ...], Line]]:
    """Yield lines with their places among others; one whose clock was set back comes right after those before it."""
    latest: datetime | None = None
    for line in lines:
        latest = line.timestamp if latest is None else max(latest, line.timestamp)
        yield (latest, line.rank, line.run_id, line.seq), line


def _read_file(path: Source, on_torn: Callable[[TornLine], object] | None) -> Iterator[Line]:
    for one in scan(path):
        if isinstance(one, Line):
            yield one
        elif isinstance(one, BadLine):
            raise LogReadError(str(path), one.problem, one.reason, one.line, one.offset)
        elif on_torn is not None:
            on_torn(one)
        else:
            warnings.warn(f"{path}: the last line is torn; its {one.bytes} bytes are skipped", LogWarning, stacklevel=3)


def scan(path: Source) -> Iterator[Line | BadLine | TornLine]:
    """Yield the lines at `path`, the invalid ones too, at which `read` would stop.

    Raises `LogReadError` if `path` cannot be read.
    """
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == "-" else Path(path).open("rb") as file:
            offset = number = 0
            while content := file.readline(LONGEST):
                number += 1
                found = line_of(content, number, offset)
                yield found
                offset += len(content)
                if isinstance(found, BadLine) and found.problem == "binary":
                    return
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise unreadable(path, error) from error


def unreadable(path: Source, error: OSError | ValueError) -> LogReadError:
    """Return the error for a path that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return LogReadError(str(path), "unreadable", f"it cannot be read ({reason}). Give a log's path")


def line_of(content: bytes, number: int, offset: int) -> Line | BadLine | TornLine:
    """Return the line that the bytes hold, or what is wrong with it. Only a file's last line may lack its newline."""
    if len(content) >= LONGEST and not content.endswith(b"\n"):
        return BadLine("binary", f"more than {LONGEST} bytes without a newline: this is no log", number, offset)
    try:
        if b"\0" in content:
            raise LineError("binary", "there is a NUL byte: this is no text")
        if not content.strip():
            raise LineError("foreign", "the line is empty")
        return parse_line(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"this is no UTF-8 (byte offset {offset + error.start}: {error.reason})"
        return _bad("torn" if content.startswith(LINE_START.encode()) else "binary", reason, content, number, offset)
    except LineError as error:
        return _bad(error.problem, str(error), content, number, offset)


def _bad(problem: Problem, reason: str, content: bytes, number: int, offset: int) -> BadLine | TornLine:
    whole = content.endswith(b"\n")
    if not whole and (problem == "torn" or (number > 1 and problem in {"binary", "foreign"})):
        return TornLine(number, offset, len(content))
    return BadLine(problem, reason, number, offset)
