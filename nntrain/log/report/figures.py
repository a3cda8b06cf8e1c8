"""The figures: what plotly draws, as plain JSON values. A run has one colour; train is dotted, eval solid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Final, TypeAlias

from nntrain.log.events import BatchFinished
from nntrain.log.report.happenings import SYMBOLS, Kind, Mark, marks, merged
from nntrain.log.report.series import Point, Series, by_batch, by_epoch, loss, metric, metrics_of, samples_per_s
from nntrain.log.report.shown import Shown
from nntrain.log.text import in_a_plot, number, whole
from nntrain.values.history import EpochStats

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

MOST_METRICS: Final = 40
"""Metrics that are drawn. More would be a page that nobody reads."""
_AT_EPOCH: Final = "epoch %{customdata[0]}"
_AT_BATCH: Final = "epoch %{customdata[0]}, batch %{customdata[1]}, step %{customdata[2]}"
_DRAWN_SYMBOLS: Final = 80
"""Points of a curve up to which each has a symbol of its own."""


@dataclass
class Figure:
    """A figure: its title, the words for where a point is, plotly's traces and the run of each, what is said of it."""

    title: str
    y_title: str
    where: str
    traces: list[Json] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, run: int, trace: Json) -> None:
        """Add a trace of a run."""
        self.traces.append(trace)
        self.runs.append(run)

    def json(self) -> dict[str, Json]:
        """Give what the page's script draws."""
        layout: dict[str, Json] = {
            "xaxis": {"title": {"text": "epochs"}, "autorangeoptions": {"include": 0}, "hoverformat": ".6~g"},
            "yaxis": {"title": {"text": in_a_plot(self.y_title, 40)}, "hoverformat": ".6~g", "automargin": True},
            "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        }
        return {"data": self.traces, "layout": layout, "runs": list(self.runs)}


def figures(runs: Sequence[Shown]) -> tuple[Figure, ...]:
    """Give the figures of runs: loss, metrics, learning rate and timings, by epoch and by batch."""
    buckets = max(60, min(700, 4000 // max(1, len(runs))))
    names = metrics_of([one.run for one in runs])[:MOST_METRICS]
    marked = [marks(one.run, one.happenings) for one in runs]

    def epochs(title: str, y_title: str, value: Callable[[EpochStats], float | None], *, plain: bool = False) -> Figure:
        found = [tuple(by_epoch(one.run, value, buckets)) for one in runs]
        return _figure(Figure(title, y_title, _AT_EPOCH), runs, found, () if plain else marked)

    def batches(
        title: str, y_title: str, value: Callable[[BatchFinished], float | None], *, plain: bool = False
    ) -> Figure:
        found = [tuple(by_batch(one.run, value, buckets)) for one in runs]
        return _figure(Figure(title, y_title, _AT_BATCH), runs, found, () if plain else marked)

    made = [epochs("loss by epoch", "loss", loss)]
    made += [epochs(f"{name} by epoch", name, metric(name)) for name in names]
    made.append(batches("loss by batch", "loss", loss))
    made += [batches(f"{name} by batch", name, metric(name)) for name in names]
    made.append(batches("learning rate", "learning rate", lambda event: event.lr, plain=True))
    made.append(epochs("seconds by epoch", "seconds", lambda stats: stats.seconds, plain=True))
    made.append(epochs("samples per second by epoch", "samples/s", samples_per_s, plain=True))
    made.append(batches("samples per second by batch", "samples/s", lambda event: event.samples_per_s, plain=True))
    return tuple(figure for figure in made if figure.traces)


def _figure(
    figure: Figure, runs: Sequence[Shown], found: Sequence[Sequence[Series]], marked: Sequence[Sequence[Mark]]
) -> Figure:
    """Draw the curves of each run in a figure, and the marks over them."""
    for index, (one, curves) in enumerate(zip(runs, found, strict=True)):
        for series in curves:
            figure.add(index, _curve(series, one, figure.where))
    for index, (one, curves) in enumerate(zip(runs, found, strict=True)):
        if curves:
            placed = _placed(marked[index] if marked else (), curves)
            for axis, part in placed.items():
                figure.add(index, _marks(part, one, axis))
    whole = sum(series.whole for curves in found for series in curves)
    drawn = sum(len(series.points) for curves in found for series in curves)
    if drawn < whole:
        figure.notes.append(
            f"Of {whole:,} values {drawn:,} are drawn: the least and the greatest of each "
            f"{math.ceil(2 * whole / drawn)} or so in a row, so no extreme is left out."
        )
    return figure


def _curve(series: Series, one: Shown, where: str) -> Json:
    points = series.points
    alone = [_stands_alone(points, index) for index in range(len(points))]
    sizes: list[Json] = [6 if seen_so or len(points) <= _DRAWN_SYMBOLS else 0 for seen_so in alone]
    return {
        "type": "scatter",
        "mode": "lines+markers" if any(sizes) else "lines",
        "name": f"{one.plotted}, {series.phase}",
        "x": [_rounded(point.x) for point in points],
        "y": [_rounded(point.y) for point in points],
        "customdata": [[min(number, 2**53) for number in point.at] for point in points],
        "line": {"color": one.colour, "width": 2, "dash": "dot" if series.phase == "train" else "solid"},
        "marker": {"color": one.colour, "size": sizes if len(set(sizes)) > 1 else (sizes or [0])[0]},
        "connectgaps": False,
        "hovertemplate": f"%{{fullData.name}}<br>{where}<br><b>%{{y}}</b><extra></extra>",
    }


def _stands_alone(points: Sequence[Point], index: int) -> bool:
    """Tell whether a point has no neighbour that a line could lead to: without a symbol it could not be seen."""
    if not math.isfinite(points[index].y):
        return False
    before = index > 0 and math.isfinite(points[index - 1].y)
    return not before and not (index + 1 < len(points) and math.isfinite(points[index + 1].y))


def _of_gaps(series: Series) -> tuple[Mark, ...]:
    """Give a mark for each stretch of a curve whose values are no finite numbers."""
    found = []
    for gap in series.gaps:
        values = ", ".join(map(number, gap.values))
        to = f" to {number(gap.last)} ({whole(gap.length)} values)" if gap.length > 1 else ""
        found.append(Mark("nonfinite", gap.first, (f"{series.phase}: {values} at {number(gap.first)}{to} epochs",)))
    return merged(found)


def _placed(shown: Sequence[Mark], curves: Sequence[Series]) -> dict[str, list[tuple[Mark, float]]]:
    """Give the marks with their height, by axis: on a curve of the run, eval's if it has one, or else at the foot."""
    curve = max(curves, key=lambda series: (series.is_drawn, series.phase == "eval"))
    on = [(mark, curve) for mark in shown] + [(mark, series) for series in curves for mark in _of_gaps(series)]
    placed: dict[str, list[tuple[Mark, float]]] = {}
    for mark, series in on:
        height = series.near(mark.x)
        axis, y = ("y2", 0.05) if height is None else ("y", height)
        placed.setdefault(axis, []).append((mark, y))
    return placed


def _marks(placed: Sequence[tuple[Mark, float]], one: Shown, axis: str) -> Json:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": one.plotted,
        "x": [_rounded(mark.x) for mark, _ in placed],
        "y": [_rounded(height) for _, height in placed],
        "yaxis": axis,
        "text": [_told(mark, one.plotted) for mark, _ in placed],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": [SYMBOLS[mark.kind] for mark, _ in placed],
            "size": 11,
            "color": one.colour,
            "line": {"width": 1.5, "color": one.colour},
        },
        "cliponaxis": False,
    }


def _told(mark: Mark, name: str) -> str:
    lines = [f"<b>{_TITLES[mark.kind]}</b> · {name}"]
    for text in mark.texts:
        lines += [in_a_plot(part) for part in wrap(text, 46)]
    if mark.count > len(mark.texts):
        lines.append(f"and {whole(mark.count - len(mark.texts))} more")
    return "<br>".join(lines)


_TITLES: Final[dict[Kind, str]] = {
    "verdict": "verdict",
    "checkpoint": "checkpoint",
    "failure": "failure",
    "resumption": "resumption",
    "warning": "warning",
    "nonfinite": "no finite number",
}


def _rounded(value: float) -> float | None:
    """Give a number to seven digits, more than a pixel shows; None, a gap, where it is none that can be drawn."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
