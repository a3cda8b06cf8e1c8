"""A run as the page shows it: one colour throughout, a short name, what tells it from the others, what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nntrain.log.replay import Run
from nntrain.log.report.config import Setting, told_apart
from nntrain.log.report.happenings import Happening, happenings
from nntrain.log.text import in_a_line, in_a_plot

_COLOURS: Final = (
    *("#2f7ed8", "#d9622b", "#2a9d6b", "#a05bd6", "#c8417b"),
    *("#8f7a12", "#1694a6", "#8a6d5c", "#5f6fd6", "#6b8e23"),
)
"""Told apart, and seen, on white and on near black: their contrast is 3.4 or more on both."""


@dataclass(frozen=True)
class Shown:
    """A run, its colour, its short name, the settings that tell it from the others, and what happened in it."""

    run: Run
    colour: str
    name: str
    apart: tuple[str, ...] = ()
    happenings: tuple[Happening, ...] = ()

    @property
    def plotted(self) -> str:
        """The name and what tells the run apart, as plotly takes text."""
        apart = f" ({in_a_plot(self.apart[0], 40)})" if self.apart else ""
        return in_a_plot(self.name) + apart


def shown(runs: Sequence[Run], found: Sequence[Setting]) -> tuple[Shown, ...]:
    """Give the runs as they are shown; `found` are their settings."""
    names = _short([run.run_id for run in runs])
    return tuple(
        Shown(run, _colour(index), name, told_apart(found, index), happenings(run))
        for index, (run, name) in enumerate(zip(runs, names, strict=True))
    )


def _short(ids: Sequence[str]) -> tuple[str, ...]:
    """Give short names that tell ids apart: their beginnings or ends where these do, or else a number too."""
    # Runs that began in one minute have ids of one beginning.
    ways: tuple[Callable[[str], str], ...] = (lambda one: one[:8], lambda one: one[-8:], lambda one: one)
    for way in ways:
        names = tuple(in_a_line(way(one), 40) for one in ids)
        if len(set(names)) == len(ids):
            return names
    return tuple(f"{index}: {in_a_line(one, 40)}" for index, one in enumerate(ids, start=1))


def _colour(index: int) -> str:
    """Give the colour of a run by its place: ten that are easily told apart, then others around the circle."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    return f"hsl({index * 137 % 360}, {45 + 20 * (index % 2)}%, {45 + 8 * (index % 3)}%)"
