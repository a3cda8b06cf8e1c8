"""A run as the page shows it: its colour, short name, differences from the other runs, and notable events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nntrain.log.replay import Run, of_other_ranks
from nntrain.log.report.config import Setting, differences
from nntrain.log.report.notable import NotableEvent, notable_events
from nntrain.log.text import one_line, plotly_text

_COLOURS: Final = (
    *("#2f7ed8", "#d9622b", "#2a9d6b", "#a05bd6", "#c8417b"),
    *("#8f7a12", "#1694a6", "#8a6d5c", "#5f6fd6", "#6b8e23"),
)
"""Distinct on white and on near black: their contrast is 3.4 or more on both."""


@dataclass(frozen=True)
class RunView:
    """A run, its colour, its short name, the settings in which it differs from the others, and its notable events."""

    run: Run
    colour: str
    name: str
    differences: tuple[str, ...] = ()
    notable: tuple[NotableEvent, ...] = ()

    @property
    def plot_name(self) -> str:
        """The name and the first difference, escaped for plotly."""
        difference = f" ({plotly_text(self.differences[0], 40)})" if self.differences else ""
        return plotly_text(self.name) + difference


def run_views(runs: Sequence[Run], found: Sequence[Setting]) -> tuple[RunView, ...]:
    """Return the runs as they are shown; `found` are their settings."""
    names = _short([run.run_id for run in runs])
    return tuple(
        RunView(run, colour(index), name, differences(found, index), notable_events(run, of_other_ranks(run)))
        for index, (run, name) in enumerate(zip(runs, names, strict=True))
    )


def _short(ids: Sequence[str]) -> tuple[str, ...]:
    """Return short, distinct names for ids: their beginnings or ends if these are distinct, else with a number."""
    # The ids of runs that began within a minute begin alike.
    ways: tuple[Callable[[str], str], ...] = (lambda one: one[:8], lambda one: one[-8:], lambda one: one)
    for way in ways:
        names = tuple(one_line(way(one), 40) for one in ids)
        if len(set(names)) == len(ids):
            return names
    return tuple(f"{index}: {one_line(one, 40)}" for index, one in enumerate(ids, start=1))


def colour(index: int) -> str:
    """Return the colour of a run by its place: ten distinct ones, then others around the colour circle."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    return f"hsl({index * 137 % 360}, {45 + 20 * (index % 2)}%, {45 + 8 * (index % 3)}%)"
