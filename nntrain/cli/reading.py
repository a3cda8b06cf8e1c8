"""Reading logs for a command: all of them, or one line on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nntrain.cli.exits import Exit
from nntrain.cli.output import say

if TYPE_CHECKING:
    from nntrain.log.line import Line, Problem
    from nntrain.log.reading import LogReadError, TornLine

EXIT_CODES: Final[Mapping[Problem, Exit]] = {
    "invalid": Exit.WRONG,
    "unreadable": Exit.UNREADABLE,
    "empty": Exit.NOTHING,
    "binary": Exit.DAMAGED,
    "foreign": Exit.FOREIGN,
    "version": Exit.VERSION,
    "torn": Exit.TORN,
}
"""The exit code for each kind of bad log."""


def read_or_exit(paths: Sequence[str]) -> list[Line]:
    """Return the lines of all logs. A torn last line is skipped, with a note on stderr; a bad log ends the command.

    The file of a rank that is read beside another is not read again.
    """
    from nntrain.log.rank_files import log_files
    from nntrain.log.reading import LogReadError, read

    lines: list[Line] = []
    beside = {file for path in paths if path != "-" for file in log_files(path) if file != Path(path)}
    for path in paths:
        if path != "-" and Path(path) in beside:
            continue
        before = len(lines)
        try:
            lines += read(path, on_torn=partial(warn_torn, path))
        except LogReadError as error:
            sys.exit(report_error(error))
        if len(lines) == before:
            sys.exit(report_error(LogReadError(path, "empty", "it has no line")))
    return lines


def warn_torn(path: str, torn: TornLine) -> None:
    """Print to stderr that a torn last line was skipped."""
    say(
        f"{path}, line {torn.line} (byte offset {torn.offset}): torn; its {torn.bytes} bytes are skipped",
        err=True,
        longest=len(path) + 1000,
    )


def report_error(error: LogReadError) -> int:
    """Print an error to stderr, and return its exit code."""
    say(f"Error: {error}", err=True, longest=len(error.path) + 1000)
    return EXIT_CODES[error.problem]
