"""The figures: what plotly draws, as plain JSON values. A run has one colour; train is dotted, eval solid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Final, TypeAlias

from nntrain.log.events import BatchFinished
from nntrain.log.replay import Run
from nntrain.log.report.notable import SYMBOLS, Mark, label, marks, merge
from nntrain.log.report.run_view import RunView
from nntrain.log.report.series import Point, Series, by_batch, by_epoch, loss, metric, metrics_of, samples_per_s
from nntrain.log.report.within import WITHIN, is_of_group
from nntrain.log.text import number, plotly_text, whole
from nntrain.values.history import EpochStats

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

MOST_METRICS: Final = 40
"""The most metrics that are drawn, and the most layers or groups in one figure: nobody reads a longer page."""
_FAINTEST: Final = 0.35
"""How opaque the first layer is of those in one figure; the last one is wholly so."""
_AT_EPOCH: Final = "epoch %{customdata[0]}"
_AT_BATCH: Final = "epoch %{customdata[0]}, batch %{customdata[1]}, step %{customdata[2]}"
_DRAWN_SYMBOLS: Final = 80
"""The most points of a curve for which each point gets a symbol."""


@dataclass
class Figure:
    """A figure: its titles, the hover text for a point's place, plotly's traces and the run of each, and notes."""

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
        """Return what the page's script draws."""
        layout: dict[str, Json] = {
            "xaxis": {"title": {"text": "epochs"}, "autorangeoptions": {"include": 0}, "hoverformat": ".6~g"},
            "yaxis": {"title": {"text": plotly_text(self.y_title, 40)}, "hoverformat": ".6~g", "automargin": True},
            "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        }
        return {"data": self.traces, "layout": layout, "runs": list(self.runs)}


def figures(runs: Sequence[RunView]) -> tuple[Figure, ...]:
    """Return the figures of runs: loss, metrics, rates and timings, by epoch and by batch, by layer and by group."""
    buckets = max(60, min(700, 4000 // max(1, len(runs))))
    names = drawn_metrics([one.run for one in runs])[:MOST_METRICS]
    marked = [marks(one.run, one.notable) for one in runs]

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
    made += [_fan(Figure(one.title, one.y_title, _AT_BATCH), runs, one.curves, buckets) for one in WITHIN]
    made.append(epochs("seconds by epoch", "seconds", lambda stats: stats.seconds, plain=True))
    made.append(epochs("samples per second by epoch", "samples/s", samples_per_s, plain=True))
    made.append(batches("samples per second by batch", "samples/s", lambda event: event.samples_per_s, plain=True))
    return tuple(figure for figure in made if figure.traces)


def drawn_metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the names of the metrics that have a figure each."""
    return tuple(name for name in metrics_of(runs) if not is_of_group(name))


def _fan(
    figure: Figure, runs: Sequence[RunView], curves: Callable[[Run, int], Iterator[Series]], buckets: int
) -> Figure:
    """Add a curve of each layer or group of each run to a figure, the first ones faint, and return it."""
    found = [tuple(curves(one.run, buckets)) for one in runs]
    shown = [some[:MOST_METRICS] for some in found]
    _figure(figure, runs, shown, ())
    strengths = [_FAINTEST + (1 - _FAINTEST) * (depth + 1) / len(some) for some in shown for depth in range(len(some))]
    for trace, strength in zip(figure.traces, strengths, strict=False):  # marks of gaps come after the curves
        if isinstance(trace, dict):
            trace["opacity"] = round(strength, 3)
    if any(len(some) > MOST_METRICS for some in found):
        figure.notes.append(f"Of {max(map(len, found)):,} curves of a run the first {MOST_METRICS} are drawn.")
    if figure.traces:
        figure.notes.append("One curve each, the first one the faintest; its name is shown where you point at it.")
    return figure


def _figure(
    figure: Figure, runs: Sequence[RunView], found: Sequence[Sequence[Series]], marked: Sequence[Sequence[Mark]]
) -> Figure:
    """Add the curves of each run to a figure, then the marks, which are drawn over them, and return it."""
    for index, (one, curves) in enumerate(zip(runs, found, strict=True)):
        for series in curves:
            figure.add(index, _curve(series, one, figure.where))
    for index, (one, curves) in enumerate(zip(runs, found, strict=True)):
        if curves:
            placed = _place(marked[index] if marked else (), curves)
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


def _curve(series: Series, one: RunView, where: str) -> Json:
    points = series.points
    alone = [_stands_alone(points, index) for index in range(len(points))]
    sizes: list[Json] = [6 if single or len(points) <= _DRAWN_SYMBOLS else 0 for single in alone]
    return {
        "type": "scatter",
        "mode": "lines+markers" if any(sizes) else "lines",
        "name": f"{one.plot_name}, {plotly_text(series.phase, 40)}",
        "x": [_rounded(point.x) for point in points],
        "y": [_rounded(point.y) for point in points],
        "customdata": [[min(number, 2**53) for number in point.at] for point in points],
        "line": {"color": one.colour, "width": 2, "dash": "dot" if series.phase == "train" else "solid"},
        "marker": {"color": one.colour, "size": sizes if len(set(sizes)) > 1 else (sizes or [0])[0]},
        "connectgaps": False,
        "hovertemplate": f"%{{fullData.name}}<br>{where}<br><b>%{{y}}</b><extra></extra>",
    }


def _stands_alone(points: Sequence[Point], index: int) -> bool:
    """Return whether a point has no neighbour to draw a line to: without a symbol it would be invisible."""
    if not math.isfinite(points[index].y):
        return False
    before = index > 0 and math.isfinite(points[index - 1].y)
    return not before and not (index + 1 < len(points) and math.isfinite(points[index + 1].y))


def _gap_marks(series: Series) -> tuple[Mark, ...]:
    """Return the marks of a curve's gaps, where its values are not finite."""
    found = []
    for gap in series.gaps:
        values = ", ".join(map(number, gap.values))
        to = f" to {number(gap.last)} ({whole(gap.length)} values)" if gap.length > 1 else ""
        found.append(Mark("nonfinite", gap.first, (f"{series.phase}: {values} at {number(gap.first)}{to} epochs",)))
    return merge(found)


def _place(shown: Sequence[Mark], curves: Sequence[Series]) -> dict[str, list[tuple[Mark, float]]]:
    """Return the marks and their heights, by axis: on the run's eval curve, or its only one, or at the bottom."""
    curve = max(curves, key=lambda series: (series.is_drawn, series.phase != "train"))
    on = [(mark, curve) for mark in shown] + [(mark, series) for series in curves for mark in _gap_marks(series)]
    placed: dict[str, list[tuple[Mark, float]]] = {}
    for mark, series in on:
        height = series.near(mark.x)
        axis, y = ("y2", 0.05) if height is None else ("y", height)
        placed.setdefault(axis, []).append((mark, y))
    return placed


def _marks(placed: Sequence[tuple[Mark, float]], one: RunView, axis: str) -> Json:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": one.plot_name,
        "x": [_rounded(mark.x) for mark, _ in placed],
        "y": [_rounded(height) for _, height in placed],
        "yaxis": axis,
        "text": [_hover_text(mark, one.plot_name) for mark, _ in placed],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": [SYMBOLS[mark.kind] for mark, _ in placed],
            "size": 11,
            "color": one.colour,
            "line": {"width": 1.5, "color": one.colour},
        },
        "cliponaxis": False,
    }


def _hover_text(mark: Mark, name: str) -> str:
    lines = [f"<b>{label(mark.kind)}</b> · {name}"]
    for text in mark.texts:
        lines += [plotly_text(part) for part in wrap(text, 46)]
    if mark.count > len(mark.texts):
        lines.append(f"and {whole(mark.count - len(mark.texts))} more")
    return "<br>".join(lines)


def _rounded(value: float) -> float | None:
    """Return a number with seven digits, more than a pixel shows; None, a gap, if it is not finite."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
