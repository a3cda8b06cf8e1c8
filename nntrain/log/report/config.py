"""The configs of runs as rows of one table, and which of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nntrain.log.replay import Run
from nntrain.log.text import word

_MOST: Final = 2000
"""The most rows of the table."""
_FACTS: Final = frozenset({"learner", "host", "versions", "sinks", "parameters", "trainable_parameters"})
"""What a config tells beside settings: the learner in words, where it ran, and what follows from the model."""
_MEASURED: Final = frozenset({"seconds", "bytes"})
"""What is measured of data while they are prepared."""


@dataclass(frozen=True)
class Setting:
    """A dotted key, and its value in each run, as text; None if a run has none.

    `chosen` says whether it is a setting, which somebody chooses, and no fact, like a version or a duration.
    """

    key: str
    values: tuple[str | None, ...]
    chosen: bool = True

    @property
    def differs(self) -> bool:
        """Return whether the value is not the same in all runs."""
        return len(set(self.values)) > 1


def settings(runs: Sequence[Run]) -> tuple[tuple[Setting, ...], int]:
    """Return the settings of runs, in the order of their configs, and how many were left out."""
    flat = [dict(_flat(run.config, ())) for run in runs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    # joined last: a key may itself contain a dot
    found = tuple(Setting(".".join(key), tuple(one.get(key) for one in flat), _is_chosen(key)) for key in keys[:_MOST])
    return found, max(0, len(keys) - _MOST)


def _is_chosen(path: tuple[str, ...]) -> bool:
    return path[0] not in _FACTS and not (path[0] == "data" and path[-1] in _MEASURED)


def _flat(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping) and value and len(path) < 20:
        for name, item in value.items():
            yield from _flat(item, (*path, str(name)))
    elif path:
        yield path, word(value)


def differing(found: Sequence[Setting]) -> tuple[Setting, ...]:
    """Return the settings that are not the same in all runs; facts, like versions and durations, are none."""
    return tuple(setting for setting in found if setting.differs and setting.chosen)


def differences(found: Sequence[Setting], index: int, most: int = 3) -> tuple[str, ...]:
    """Return the settings in which a run differs from the others, as `lr=0.1`."""
    return tuple(
        f"{setting.key}={setting.values[index]}"
        for setting in differing(found)[:most]
        if setting.values[index] is not None
    )
