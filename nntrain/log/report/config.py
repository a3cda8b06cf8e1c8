"""The configs of runs as rows of one table, and which of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nntrain.log.replay import Run
from nntrain.log.text import word

_MOST: Final = 2000
"""Rows of the longest table."""


@dataclass(frozen=True)
class Setting:
    """A dotted key, and its value as text in each run; None where a run has none."""

    key: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Tell whether not all runs have the same."""
        return len(set(self.values)) > 1


def settings(runs: Sequence[Run]) -> tuple[tuple[Setting, ...], int]:
    """Give the settings of runs, in the order in which they come, and how many more there would be."""
    flat = [dict(_flat(run.config, ())) for run in runs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    # a key with a dot in it may look like two
    found = tuple(Setting(".".join(key), tuple(one.get(key) for one in flat)) for key in keys[:_MOST])
    return found, max(0, len(keys) - _MOST)


def _flat(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping) and value and len(path) < 20:
        for name, item in value.items():
            yield from _flat(item, (*path, str(name)))
    elif path:
        yield path, word(value)


def told_apart(found: Sequence[Setting], index: int, most: int = 3) -> tuple[str, ...]:
    """Give the settings that tell a run from the others, in words: `lr=0.1`.

    What a run does comes before where it runs.
    """
    rank = {"learner": 3, "host": 2, "versions": 2, "sinks": 2}
    apart = [setting for setting in found if setting.differs]
    apart.sort(key=lambda setting: rank.get(setting.key.split(".", maxsplit=1)[0], 1))
    if any(setting.key != "learner" for setting in apart):
        apart = [setting for setting in apart if setting.key != "learner"]
    return tuple(
        f"{setting.key}={setting.values[index]}" for setting in apart[:most] if setting.values[index] is not None
    )
