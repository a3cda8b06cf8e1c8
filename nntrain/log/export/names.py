"""Names that other tools accept, for curves, parameters and runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable
from typing import Final

from nntrain.log.line import Line

LONGEST: Final = 200
"""The most characters of a name. MLflow accepts 250."""

_OTHER: Final = re.compile(r"[^\w.\- /]")
_DOTS: Final = re.compile(r"^\.+")
_RUN: Final = re.compile(r"[^A-Za-z0-9_-]")


def name_of_run(line: Line) -> str:
    """Return a name for the line's run, for a folder or another tool's id: at most 64 characters of A-Z a-z 0-9 _ -.

    It is the run's id, if that has only such characters (nntrain's ids do), with the rank if that is not 0.
    """
    rank = f"-rank{line.rank}" if line.rank else ""
    name = _RUN.sub("_", line.run_id)[: 64 - len(rank)].lstrip("-_") or "run"
    if name != line.run_id or "-rank" in name or len(rank) > 40:
        digest = hashlib.sha256(repr((line.run_id, line.rank)).encode("utf-8", "backslashreplace")).hexdigest()[:12]
        return f"{name[:40]}-{digest}"
    return name + rank


class Names:
    """Makes unique names of letters, digits, `_ - . /` and space: the same thing always gets the same name.

    Any other character becomes `_`, and so do dots at the beginning of a part, which in a path could lead out of a
    folder. If two things would get the same name, the later one gets a number.
    """

    def __init__(self) -> None:
        self._given: dict[Hashable, str] = {}
        self._taken: set[str] = set()

    def of(self, thing: Hashable, wish: str) -> str:
        """Return the name of `thing`, as close to `wish` as possible."""
        name = self._given.get(thing)
        if name is None:
            name = self._given[thing] = self._free(sanitize(wish))
            self._taken.add(name.casefold())
        return name

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free.casefold() in self._taken:
            number += 1
            free = f"{name[: LONGEST - 12]}_{number}"
        return free


def sanitize(wish: str) -> str:
    """Return `wish` with every character that is not allowed replaced."""
    parts = _OTHER.sub("_", wish[:LONGEST]).split("/")
    return "/".join(_DOTS.sub(lambda dots: "_" * len(dots[0]), part).strip() or "_" for part in parts)
