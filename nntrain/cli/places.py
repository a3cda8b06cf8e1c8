"""Where the options of a configuration stand, so that what is said of one names the file and line, or the variable."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

Name = tuple[str, ...]
"""An option, as `("subscribers", "nan_guard", "every")`."""

_HEADER: Final = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?")


class Places:
    """Where the options of one configuration stand: `flags` before the environment, and that before the file."""

    def __init__(self, prefix: str, flags: Mapping[str, Any], path: Path | None, text: str) -> None:
        self._flags = flags
        self.variables: Mapping[Name, str] = {
            tuple(name.lower().removeprefix(prefix.lower()).split("__")): name
            for name in os.environ
            if name.lower().startswith(prefix.lower())
        }
        """The environment's variables, by the options that they stand for."""
        self._places: dict[Name, str] = {}
        for name, variable in self.variables.items():
            self._add(name, variable)
        for number, name in _numbered_names(text):
            self._add(name, f"{path}, line {number}")

    def _add(self, name: Name, place: str) -> None:
        for end in range(1, len(name) + 1):
            self._places.setdefault(name[:end], place)

    def of(self, name: Name) -> str:
        """Return ` (in run.toml, line 3)`, or ` (in NNTRAIN_LR)`; nothing for what the command line says itself."""
        for end in range(len(name), 0, -1):
            if _has(self._flags, name[:end]):
                return ""
            if name[:end] in self._places:
                return f" (in {self._places[name[:end]]})"
        return ""


def _has(tree: object, name: Name) -> bool:
    for word in name:
        if not isinstance(tree, Mapping) or word not in tree:
            return False
        tree = tree[word]
    return True


def _numbered_names(text: str) -> Iterator[tuple[int, Name]]:
    """Yield the names that lines of a TOML text begin with, each with the number of its line."""
    table: Name = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.fullmatch(line)
        name = _name(header[1] if header else line.partition("=")[0]) if header or "=" in line else ()
        if header:
            table = name
        if name:
            yield number, table if header else (*table, *name)


def _name(key: str) -> Name:
    """Return the words of a TOML key, which may be dotted and quoted; none where it is no key."""
    try:
        tree: object = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    words: list[str] = []
    while isinstance(tree, dict) and len(tree) == 1:
        ((word, tree),) = tree.items()
        words.append(word)
    return tuple(words)
