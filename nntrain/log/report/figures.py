"""The figures: what `draw.js` draws, as plain JSON values. A run has one colour; train is dotted, eval solid."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from nntrain.log.events import BatchFinished
from nntrain.log.replay import Run
from nntrain.log.report.notable import Mark, label, marks, merge
from nntrain.log.report.run_view import RunView
from nntrain.log.report.series import Series, by_batch, by_epoch, loss, metric, metrics_of, samples_per_s
from nntrain.log.report.within import WITHIN, is_of_group
from nntrain.log.text import number, one_line, whole
from nntrain.values.history import EpochStats

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

MOST_METRICS: Final = 40
"""The most metrics that are drawn, and the most layers or groups in one figure: nobody reads a longer page."""
_MOST_POINTS: Final = 30_000
"""About how many points a page has: they are most of its size. Each takes 25 to 40 bytes."""
_MOST_BUCKETS: Final = 700
"""In how many parts a curve is thinned out at most: more show no more."""
_LEAST_BUCKETS: Final = 10
_FAINTEST: Final = 0.35
"""How opaque the first layer is of those in one figure; the last one is wholly so."""


@dataclass
class Figure:
    """A figure: its titles, the curves of each run, their marks, and notes. `large` ones come first."""

    title: str
    y_title: str
    by_epoch: bool
    found: Sequence[Sequence[Series]]
    marked: Sequence[Sequence[Mark]] = ()
    large: bool = False
    is_fan: bool = False
    """Whether a run has a curve for each layer or group, the first one the faintest, and none is of train or eval."""
    notes: list[str] = field(default_factory=list)

    def thin_out(self, buckets: int) -> None:
        """Thin the curves out, and say so."""
        self.found = [[series.thinned(buckets) for series in curves] for curves in self.found]
        whole_ = sum(series.whole for curves in self.found for series in curves)
        drawn = sum(len(series.points) for curves in self.found for series in curves)
        if drawn < whole_:
            self.notes.append(
                f"Of {whole_:,} values {drawn:,} are drawn: the least and the greatest of each "
                f"{math.ceil(2 * whole_ / drawn)} or so in a row, so no extreme is left out."
            )

    def json(self) -> dict[str, Json]:
        """Return what the page's script draws: the curves first, then the marks, which are drawn over them."""
        curves: list[Json] = []
        marks_: list[Json] = []
        for index, some in enumerate(self.found):
            for depth, series in enumerate(some, 1):
                strength = _FAINTEST + (1 - _FAINTEST) * depth / len(some) if self.is_fan else 1.0
                curves.append(_curve(index, series, strength, by_epoch=self.by_epoch))
            if some:
                marks_ += _marks(index, self.marked[index] if self.marked else (), some)
        return {"title": self.title, "y": self.y_title, "byEpoch": self.by_epoch, "curves": curves, "marks": marks_}


def figures(runs: Sequence[RunView]) -> tuple[Figure, ...]:
    """Return the figures of runs: losses first, then metrics, rates and timings, by epoch, batch, layer and group."""
    names = drawn_metrics([one.run for one in runs])[:MOST_METRICS]
    epoch_marks = [marks(one.run, one.notable, by_epoch=True) for one in runs]
    batch_marks = [marks(one.run, one.notable) for one in runs]
    most = _MOST_BUCKETS

    def epochs(title: str, y_title: str, value: Callable[[EpochStats], float | None], *, plain: bool = False) -> Figure:
        found = [tuple(by_epoch(one.run, value, most)) for one in runs]
        return Figure(title, y_title, True, found, () if plain else epoch_marks)

    def batches(
        title: str, y_title: str, value: Callable[[BatchFinished], float | None], *, plain: bool = False
    ) -> Figure:
        found = [tuple(by_batch(one.run, value, most)) for one in runs]
        return Figure(title, y_title, False, found, () if plain else batch_marks)

    losses = [epochs("loss by epoch", "loss", loss), batches("loss by batch", "loss", loss)]
    for one in losses:
        one.large = True
    made = losses + [epochs(f"{name} by epoch", name, metric(name)) for name in names]
    made += [batches(f"{name} by batch", name, metric(name)) for name in names]
    made.append(batches("learning rate", "learning rate", lambda event: event.lr, plain=True))
    made += [_fan(one.title, one.y_title, runs, one.curves) for one in WITHIN]
    made.append(epochs("seconds by epoch", "seconds", lambda stats: stats.seconds, plain=True))
    made.append(epochs("samples per second by epoch", "samples/s", samples_per_s, plain=True))
    made.append(batches("samples per second by batch", "samples/s", lambda event: event.samples_per_s, plain=True))
    drawn = tuple(figure for figure in made if any(figure.found))
    lengths = [len(series.points) for figure in drawn for curves in figure.found for series in curves]
    sizes = range(_LEAST_BUCKETS, _MOST_BUCKETS + 1)
    fit = bisect_right(sizes, _MOST_POINTS, key=lambda size: sum(min(length, 2 * size) for length in lengths))
    buckets = sizes[max(0, fit - 1)]
    for figure in drawn:
        figure.thin_out(buckets)
    return drawn


def drawn_metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the names of the metrics that have a figure each."""
    return tuple(name for name in metrics_of(runs) if not is_of_group(name))


def _fan(title: str, y_title: str, runs: Sequence[RunView], curves: Callable[[Run, int], Iterator[Series]]) -> Figure:
    """Return a figure with a curve of each layer or group of each run, the first ones faint."""
    found = [tuple(curves(one.run, _MOST_BUCKETS)) for one in runs]
    figure = Figure(title, y_title, False, [some[:MOST_METRICS] for some in found], is_fan=True)
    if any(len(some) > MOST_METRICS for some in found):
        figure.notes.append(f"Of {max(map(len, found)):,} curves of a run the first {MOST_METRICS} are drawn.")
    if any(len(some) > 1 for some in found):
        figure.notes.append("One curve each, the first one the faintest; its name is shown where you point at it.")
    return figure


def _curve(run: int, series: Series, strength: float, *, by_epoch: bool) -> Json:
    """Return a curve; of batches with the numbers of the epochs, batches and steps."""
    points = series.points
    drawn: dict[str, Json] = {
        "run": run,
        "name": one_line(series.phase, 40),
        "dotted": series.phase == "train",
        "strength": round(strength, 3),
        "x": [_rounded(point.x, 7) for point in points],
        "y": [_rounded(point.y, 6) for point in points],
    }
    if not by_epoch:
        drawn["at"] = [min(part, 2**53) for point in points for part in point.at]
    return drawn


def _gap_marks(series: Series) -> tuple[Mark, ...]:
    """Return the marks of a curve's gaps, where its values are not finite."""
    found = []
    for gap in series.gaps:
        values = ", ".join(map(number, gap.values))
        to = f" to {number(gap.last)} ({whole(gap.length)} values)" if gap.length > 1 else ""
        found.append(Mark("nonfinite", gap.first, (f"{series.phase}: {values} at epoch {number(gap.first)}{to}",)))
    return merge(found)


def _marks(run: int, shown: Sequence[Mark], curves: Sequence[Series]) -> Iterator[Json]:
    """Yield the marks of a run: on its eval curve, or its only one; at the foot, `y` is None, if it has no height."""
    curve = max(curves, key=lambda series: (series.is_drawn, series.phase != "train"))
    on = [(mark, curve) for mark in shown] + [(mark, series) for series in curves for mark in _gap_marks(series)]
    for mark, series in on:
        height = None if mark.kind == "checkpoint" else series.near(mark.x)
        texts = [*mark.texts]
        if mark.count > len(texts):
            texts.append(f"and {whole(mark.count - len(texts))} more")
        yield {
            "run": run,
            "kind": mark.kind,
            "label": label(mark.kind),
            "x": _rounded(mark.x, 7),
            "y": None if height is None else _rounded(height, 6),
            "text": "\n".join(texts),
        }


def _rounded(value: float, digits: int) -> float | None:
    """Return a number with as many digits as can be seen or read, whole ones without a point; None, a gap, if it is
    not finite.
    """
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
