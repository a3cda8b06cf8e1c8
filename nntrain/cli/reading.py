"""Logs read for a command: all of them, or one line on stderr and an exit code that says what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn

from nntrain.cli.output import say

if TYPE_CHECKING:
    from nntrain.log.line import Line, Problem
    from nntrain.log.reading import LogReadError, TornLine

EXIT_CODES: Final[Mapping[Problem, int]] = MappingProxyType(
    {
        "invalid": 1,
        "unreadable": 3,
        "empty": 4,
        "binary": 5,
        "foreign": 6,
        "version": 7,
        "torn": 8,
    }
)
"""What each kind of bad log ends a command with. 2 is for bad usage."""


def read_or_exit(paths: Sequence[str]) -> list[Line]:
    """Read every log, before anything is made of them. A torn last line is skipped, and noted on stderr."""
    from nntrain.log.reading import LogReadError, read

    lines: list[Line] = []
    for path in paths:
        before = len(lines)
        try:
            lines += read(path, on_torn=lambda torn, path=path: note_torn(path, torn))  # type: ignore[misc] # mypy cannot infer a lambda with a default
        except LogReadError as error:
            exit_for(error)
        if len(lines) == before:
            exit_for(LogReadError(path, "empty", "it has no line"))
    return lines


def note_torn(path: str, torn: TornLine) -> None:
    """Say that a last line was skipped."""
    say(
        f"{path}, line {torn.line} (byte offset {torn.offset}): torn; its {torn.bytes} bytes are skipped",
        err=True,
        longest=len(path) + 1000,
    )


def exit_for(error: LogReadError) -> NoReturn:
    """Say what is wrong, and end with its exit code."""
    sys.exit(code_of(error))


def code_of(error: LogReadError) -> int:
    """Say what is wrong, and give its exit code."""
    say(f"Error: {error}", err=True, longest=len(error.path) + 1000)
    return EXIT_CODES[error.problem]
