"""The configs of runs as rows of one table, and which of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nntrain.log.replay import Run
from nntrain.log.text import word

_MOST: Final = 2000
"""The most rows of the table."""


@dataclass(frozen=True)
class Setting:
    """A dotted key, and its value in each run, as text; None if a run has none."""

    key: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Return whether the value is not the same in all runs."""
        return len(set(self.values)) > 1


def settings(runs: Sequence[Run]) -> tuple[tuple[Setting, ...], int]:
    """Return the settings of runs, in the order of their configs, and how many were left out."""
    flat = [dict(_flat(run.config, ())) for run in runs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    # joined last: a key may itself contain a dot
    found = tuple(Setting(".".join(key), tuple(one.get(key) for one in flat)) for key in keys[:_MOST])
    return found, max(0, len(keys) - _MOST)


def _flat(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping) and value and len(path) < 20:
        for name, item in value.items():
            yield from _flat(item, (*path, str(name)))
    elif path:
        yield path, word(value)


def differences(found: Sequence[Setting], index: int, most: int = 3) -> tuple[str, ...]:
    """Return the settings in which a run differs from the others, as `lr=0.1`; those about where it runs come last."""
    rank = {"learner": 3, "host": 2, "versions": 2, "sinks": 2}
    differing = [setting for setting in found if setting.differs]
    differing.sort(key=lambda setting: rank.get(setting.key.split(".", maxsplit=1)[0], 1))
    if any(setting.key != "learner" for setting in differing):
        differing = [setting for setting in differing if setting.key != "learner"]
    return tuple(
        f"{setting.key}={setting.values[index]}" for setting in differing[:most] if setting.values[index] is not None
    )
