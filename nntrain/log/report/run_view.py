"""A run as the page shows it: its colour, short name, differences from the other runs, and notable events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nntrain.errors import ConfigError
from nntrain.log.replay import Run, of_other_ranks
from nntrain.log.report.config import Setting, differences
from nntrain.log.report.names import distinct, short_ids
from nntrain.log.report.notable import NotableEvent, notable_events

_COLOURS: Final = (
    *("#2f7ed8", "#d9622b", "#2a9d6b", "#a05bd6", "#c8417b"),
    *("#8f7a12", "#1694a6", "#8a6d5c", "#5f6fd6", "#6b8e23"),
)
"""Distinct on white and on near black: their contrast is 3.4 or more on both."""


@dataclass(frozen=True)
class RunView:
    """A run, its place, colour and name, the settings in which it differs from others, and its notable events."""

    run: Run
    index: int
    colour: str
    name: str
    differences: tuple[str, ...] = ()
    notable: tuple[NotableEvent, ...] = ()


def run_views(runs: Sequence[Run], found: Sequence[Setting], names: Sequence[str] | None) -> tuple[RunView, ...]:
    """Return the runs as they are shown; `found` are their settings, `names` their names, by default their ids.

    Raises `ConfigError` if there is not a name for each run.
    """
    if names is not None and len(names) != len(runs):
        raise ConfigError(f"There are {len(names)} names and {len(runs)} runs; expected a name for each run.")
    called = short_ids([run.run_id for run in runs]) if names is None else distinct(names)
    return tuple(
        RunView(run, index, colour(index), name, differences(found, index), notable_events(run, of_other_ranks(run)))
        for index, (run, name) in enumerate(zip(runs, called, strict=True))
    )


def colour(index: int) -> str:
    """Return the colour of a run by its place: ten distinct ones, then others around the colour circle."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    return f"hsl({index * 137 % 360}, {45 + 20 * (index % 2)}%, {45 + 8 * (index % 3)}%)"
