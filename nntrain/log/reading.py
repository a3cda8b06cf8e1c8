"""Reading a log back: typed lines, a torn last line skipped, and precise errors for the rest."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from nntrain.errors import LogError, LogWarning
from nntrain.log.line import BEGINNING, Line, LineError, Problem, parsed

LONGEST: Final = 64 << 20
"""Bytes of the longest line that is read; what is longer is no log."""

Source = str | os.PathLike[str]
"""A path, or `-` for the standard input."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """What is no line of a log: what is wrong, and where. Lines count from 1, offsets (in bytes) from 0."""

    problem: Problem
    reason: str
    line: int
    offset: int


@dataclass(frozen=True, slots=True)
class TornLine:
    """A last line that a crash cut off: where, and how many bytes of it there are."""

    line: int
    offset: int
    bytes: int


class LogReadError(LogError, ValueError):
    """A log that cannot be read: `problem` says what is wrong, `line` and `offset` where, if it is a line."""

    def __init__(self, path: str, problem: Problem, reason: str, line: int | None = None, offset: int | None = None):
        where = "" if line is None else f", line {line} (byte offset {offset})"
        super().__init__(f"{path}{where}: {reason}.")
        self.path = path
        self.problem: Problem = problem
        self.line = line
        self.offset = offset


def read(path: Source, *, on_torn: Callable[[TornLine], object] | None = None) -> Iterator[Line]:
    """Yield the lines of the log at `path`, oldest first.

    A torn last line, which a crash may leave, is skipped: `on_torn` is told, or else there is a `LogWarning`. Raises
    `LogReadError` for whatever else is no line of a log, with its number and byte offset, and for a path that cannot
    be read. An empty file has no line.
    """
    for one in scan(path):
        if isinstance(one, Line):
            yield one
        elif isinstance(one, BadLine):
            raise LogReadError(str(path), one.problem, one.reason, one.line, one.offset)
        elif on_torn is not None:
            on_torn(one)
        else:
            warnings.warn(f"{path}: the last line is torn; its {one.bytes} bytes are skipped", LogWarning, stacklevel=2)


def scan(path: Source) -> Iterator[Line | BadLine | TornLine]:
    """Yield the lines at `path` and, unlike `read`, go on after those that are none.

    Raises `LogReadError` where `path` cannot be read.
    """
    try:
        with _opened(path) as file:
            yield from _scanned(file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LogReadError(str(path), "unreadable", f"it cannot be read ({reason}). Give a log's path") from error
    except ValueError as error:  # a path with a NUL
        raise LogReadError(str(path), "unreadable", f"it cannot be read ({error}). Give a log's path") from error


def _opened(path: Source) -> BinaryIO | nullcontext[BinaryIO]:
    if str(path) == "-":
        return nullcontext(sys.stdin.buffer)
    return Path(path).open("rb")


def _scanned(file: BinaryIO) -> Iterator[Line | BadLine | TornLine]:
    offset = 0
    number = 0
    while content := file.readline(LONGEST):
        number += 1
        found = line_of(content, number, offset)
        yield found
        offset += len(content)
        if isinstance(found, BadLine) and found.problem == "binary":
            return


def line_of(content: bytes, number: int, offset: int) -> Line | BadLine | TornLine:
    """Give what a line's bytes are; without a newline at the end they are the last of a file."""
    if len(content) >= LONGEST and not content.endswith(b"\n"):
        return BadLine("binary", f"more than {LONGEST} bytes without a newline: this is no log", number, offset)
    try:
        if b"\0" in content:
            raise LineError("binary", "there is a NUL byte: this is no text")
        if not content.strip():
            raise LineError("foreign", "the line is empty")
        return parsed(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"this is no UTF-8 (byte offset {offset + error.start}: {error.reason})"
        return _bad("torn" if content.startswith(BEGINNING.encode()) else "binary", reason, content, number, offset)
    except LineError as error:
        return _bad(error.problem, str(error), content, number, offset)


def _bad(problem: Problem, reason: str, content: bytes, number: int, offset: int) -> BadLine | TornLine:
    whole = content.endswith(b"\n")
    if not whole and (problem == "torn" or (number > 1 and problem in {"binary", "foreign"})):
        return TornLine(number, offset, len(content))
    return BadLine(problem, reason, number, offset)
