"""What runs are called: by the files that they are in, or as somebody says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePath

from nntrain.log.text import one_line


def file_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each path: its last parts, as few as tell them apart, without the suffix."""
    parts = [PurePath(path).with_suffix("").parts or (path,) for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            return tuple(names)
    return tuple(paths)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with a number added to those that come more than once, as several runs of one file."""
    times = Counter(names)
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{one_line(name, 40)} ({seen[name]})" if times[name] > 1 else one_line(name, 40))
    return tuple(found) if len(set(found)) == len(found) else tuple(f"{at}: {one}" for at, one in enumerate(found, 1))


def short_ids(ids: Sequence[str]) -> tuple[str, ...]:
    """Return short, distinct names for ids: their beginnings or ends if these are distinct, else with a number."""
    # The ids of runs that began within a minute begin alike.
    ways: tuple[Callable[[str], str], ...] = (lambda one: one[:8], lambda one: one[-8:], lambda one: one)
    for way in ways:
        names = tuple(one_line(way(one), 40) for one in ids)
        if len(set(names)) == len(ids):
            return names
    return tuple(f"{index}: {one_line(one, 40)}" for index, one in enumerate(ids, start=1))
