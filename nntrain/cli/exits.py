"""The exit codes of all commands, each with one meaning."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """An exit code. `MEANINGS` says what each tells."""

    DONE = 0
    WRONG = 1
    USAGE = 2
    UNREADABLE = 3
    NOTHING = 4
    DAMAGED = 5
    FOREIGN = 6
    VERSION = 7
    TORN = 8
    GAP = 9
    UNWRITABLE = 10
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.DONE: "done",
    Exit.WRONG: "wrong, different, or failed",
    Exit.USAGE: "bad usage, settings or data",
    Exit.UNREADABLE: "cannot be read",
    Exit.NOTHING: "empty, or nothing there",
    Exit.DAMAGED: "damaged",
    Exit.FOREIGN: "not a file of nntrain's",
    Exit.VERSION: "of an unknown version",
    Exit.TORN: "a log torn in its middle",
    Exit.GAP: "log lines missing or repeated",
    Exit.UNWRITABLE: "output cannot be written",
    Exit.INTERRUPTED: "Ctrl-C",
    Exit.READER_GONE: "the reader has closed the output",
    Exit.TERMINATED: "SIGTERM",
}
"""What each code tells, short enough for two columns of the help; the reference says more of each."""


def in_two_columns() -> list[str]:
    """Return the codes with their meanings as lines of two columns."""
    cells = [f"{code.value:>3}  {meaning}" for code, meaning in MEANINGS.items()]
    half = (len(cells) + 1) // 2
    width = max(map(len, cells[:half])) + 4
    return [f"{left:<{width}}{right}" for left, right in zip(cells[:half], cells[half:], strict=True)]
