"""The files of one log that several processes write: `run.jsonl` is rank 0's, `run.rank2.jsonl` that of rank 2."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_OF_RANK: Final = re.compile(r"(?P<stem>.+)\.rank(?P<rank>[1-9][0-9]*)", re.DOTALL)
SUFFIX: Final = ".jsonl"
"""What the names of logs in a folder end in."""


def rank_file(path: str | os.PathLike[str], rank: int) -> Path:
    """Return the file of a rank: `path` itself for rank 0, and for what is no file, as a pipe or a device."""
    found = Path(path)
    if rank == 0 or (found.exists() and not found.is_file()):
        return found
    return found.with_name(f"{found.stem}.rank{rank}{found.suffix}")


def log_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a log: in a folder each `*.jsonl`; else `path`, and beside it those of the other ranks.

    They are in the order of names and ranks. The file of a rank above 0 stands for itself alone.
    """
    given = Path(path)
    try:
        if given.is_dir():
            return sorted((one for one in given.iterdir() if one.suffix == SUFFIX and one.is_file()), key=_in_order)
        beside = [one for one in given.parent.iterdir() if _first_of(one) == given.name]
    except (OSError, ValueError):  # whoever opens it says what is wrong
        beside = []
    return [given, *sorted(beside, key=_in_order)]


def _first_of(path: Path) -> str | None:
    """Return the name of rank 0's file beside that of another rank; None of any other file."""
    found = _OF_RANK.fullmatch(path.stem)
    return None if found is None else found["stem"] + path.suffix


def _in_order(path: Path) -> tuple[str, int]:
    found = _OF_RANK.fullmatch(path.stem)
    return (path.name, 0) if found is None else (found["stem"] + path.suffix, int(found["rank"]))
