"""Names that other tools take: of curves and parameters, and of runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable
from typing import Final

from nntrain.log.line import Line

LONGEST: Final = 200
"""Characters of the longest name. MLflow takes 250."""

_OTHER: Final = re.compile(r"[^\w.\- /]")
_DOTS: Final = re.compile(r"^\.+")
_RUN: Final = re.compile(r"[^A-Za-z0-9_-]")


def name_of_run(line: Line) -> str:
    """Give the name of a line's run, for a folder or another tool's identifier: at most 64 of A-Z a-z 0-9 _ -.

    It is the run's id where that is such a name already (nntrain's are), and the rank where that is not 0.
    """
    rank = f"-rank{line.rank}" if line.rank else ""
    name = _RUN.sub("_", line.run_id)[: 64 - len(rank)].lstrip("-_") or "run"
    if name != line.run_id or "-rank" in name or len(rank) > 40:
        digest = hashlib.sha256(repr((line.run_id, line.rank)).encode("utf-8", "backslashreplace")).hexdigest()[:12]
        return f"{name[:40]}-{digest}"
    return name + rank


class Names:
    """Hands out names of letters, digits and `_ - . /` and space: the same for the same thing, and never twice.

    Any other character is a `_`, and so is what would lead out of a folder, were the name a path; where two things
    would get one name, the later gets a number.
    """

    def __init__(self) -> None:
        self._given: dict[Hashable, str] = {}
        self._taken: set[str] = set()

    def of(self, thing: Hashable, wish: str) -> str:
        """Give the name of `thing`, which is to be like `wish`."""
        name = self._given.get(thing)
        if name is None:
            name = self._given[thing] = self._free(allowed(wish))
            self._taken.add(name.casefold())
        return name

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free.casefold() in self._taken:
            number += 1
            free = f"{name[: LONGEST - 12]}_{number}"
        return free


def allowed(wish: str) -> str:
    """Give the allowed name that is most like `wish`."""
    parts = _OTHER.sub("_", wish[:LONGEST]).split("/")
    return "/".join(_DOTS.sub(lambda dots: "_" * len(dots[0]), part).strip() or "_" for part in parts)
