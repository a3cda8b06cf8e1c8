"""The curves of a run, as points: finished phases by epoch, and batches within their epochs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

from nntrain.log.events import BatchFinished, EpochFinished
from nntrain.log.line import Line
from nntrain.log.replay import Run, phases_of
from nntrain.log.text import as_float
from nntrain.values.history import EpochStats


class Point(NamedTuple):
    """A value `y`, finite or not, at `x` epochs; `at` has the epoch and more, which the hover text shows."""

    x: float
    y: float
    at: tuple[int, ...]


class Gap(NamedTuple):
    """A part of a curve, from `first` to `last` epochs, where `length` values in a row are not finite."""

    first: float
    last: float
    length: int
    values: tuple[float, ...]
    """The different values: NaN, or infinite."""


@dataclass(frozen=True)
class Series:
    """The points of one curve of one run; `whole` is their number before the curve was thinned out."""

    phase: str
    """The phase, or the set's name; of what is seen within a phase the layer, or the group."""
    points: Sequence[Point]
    whole: int
    gaps: tuple[Gap, ...]

    @classmethod
    def of(cls, phase: str, points: Sequence[Point], buckets: int) -> Series:
        """Return the curve of these points, thinned out to `buckets` buckets."""
        return cls(phase, thin_out(points, buckets), len(points), tuple(_gaps(points)))

    def thinned(self, buckets: int) -> Series:
        """Return the curve, thinned out further."""
        return replace(self, points=thin_out(self.points, buckets))

    @property
    def is_drawn(self) -> bool:
        """Return whether any point is finite."""
        return any(math.isfinite(point.y) for point in self.points)

    def near(self, x: float) -> float | None:
        """Return the curve's height at `x`, interpolated between finite points; None if there are none."""
        finite = [point for point in self.points if math.isfinite(point.y)]
        if not finite:
            return None
        index = bisect_left([point.x for point in finite], x)
        if index == 0 or index == len(finite):
            return finite[min(index, len(finite) - 1)].y
        before, after = finite[index - 1], finite[index]
        part = (x - before.x) / (after.x - before.x)
        return before.y * (1 - part) + after.y * part


class Scale:
    """Computes the place of a line on the axis of epochs: epoch 3 is from 3 to 4, and half of its training is at 3.5.

    Batch b of n begins at (b - 1) / n, so that the whole part of a batch's place is the number of its epoch. Eval comes
    after the training of its epoch, so its marks are at the epoch's end. Its batches are spread over the same width as
    those of the training.
    """

    def __init__(self, run: Run) -> None:
        _, self._batches = phases_of(run.config)
        seen = [(stats.label, stats.batches) for stats in run.history]
        for label, count in (*seen, *((line.label, line.batch) for line in (*run.batches, *run.looks, *run.events))):
            self._batches[label] = max(1, self._batches.get(label, 1), count)

    def batch(self, line: Line) -> float:
        """Return the place of a batch's line."""
        return as_float(line.epoch) + max(0.0, as_float(line.batch - 1) / as_float(self._batches[line.label]))

    def mark(self, line: Line) -> float:
        """Return the place of an event's line: where the batches before it end."""
        if line.phase == "eval" or isinstance(line.event, EpochFinished):
            return as_float(line.epoch) + 1.0
        return as_float(line.epoch) + min(1.0, as_float(line.batch) / as_float(self._batches[line.label]))


def metrics_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the names of all metrics, in the order in which they first appear."""
    found: dict[str, None] = {}
    for run in runs:
        for stats in run.history:
            found |= dict.fromkeys(stats.metrics)
        for line in run.batches:
            if isinstance(line.event, BatchFinished) and not line.event.metrics.keys() <= found.keys():
                found |= dict.fromkeys(line.event.metrics)
    return tuple(found)


def labels_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what the phases are called: train, and the names of all sets, or eval where they have none."""
    sets = dict.fromkeys(stats.label for run in runs for stats in run.history if stats.phase == "eval")
    return ("train", *(sets or ("eval",)))


def by_epoch(run: Run, value: Callable[[EpochStats], float | None], buckets: int) -> Iterator[Series]:
    """Yield the curves of `value` over the finished phases: one of train, and one of each set, if there are points."""
    for phase in labels_of([run]):
        points = [
            Point(as_float(stats.epoch), y, (stats.epoch,))
            for stats in run.history
            if stats.label == phase and (y := value(stats)) is not None
        ]
        if points:
            yield Series.of(phase, points, buckets)


def by_batch(run: Run, value: Callable[[BatchFinished], float | None], buckets: int) -> Iterator[Series]:
    """Yield the curves of `value` over the batches: one of train, and one of each set, if there are points."""
    scale = Scale(run)
    points: dict[str, list[Point]] = {label: [] for label in labels_of([run])}
    for line in run.batches:
        if isinstance(line.event, BatchFinished) and (y := value(line.event)) is not None:
            points.setdefault(line.label, []).append(Point(scale.batch(line), y, (line.epoch, line.batch, line.step)))
    for label, found in points.items():
        if found:
            yield Series.of(label, found, buckets)


def by_name(
    run: Run, lines: Sequence[Line], values: Callable[[Line], Mapping[str, float]], buckets: int
) -> Iterator[Series]:
    """Yield a curve for each name of the values that lines have, in the order in which the names first appear."""
    scale = Scale(run)
    points: dict[str, list[Point]] = {}
    for line in lines:
        for name, y in values(line).items():
            points.setdefault(name, []).append(Point(scale.batch(line), y, (line.epoch, line.batch, line.step)))
    for name, found in points.items():
        yield Series.of(name, found, buckets)


def loss(of: EpochStats | BatchFinished) -> float | None:
    """Return the loss of a phase or batch, None if it has none."""
    return None if of.has_loss is False else of.loss


def metric(name: str) -> Callable[[EpochStats | BatchFinished], float | None]:
    """Return a function from a phase or batch to its metric of this name, None if it has none."""
    return lambda of: of.metrics.get(name)


def samples_per_s(stats: EpochStats) -> float | None:
    """Return a phase's samples per second; None if its duration is 0."""
    return as_float(stats.samples) / stats.seconds if stats.seconds > 0 else None


def thin_out(points: Sequence[Point], buckets: int) -> Sequence[Point]:
    """Return fewer points that look the same: of each bucket the lowest, the highest and the first not finite.

    So no spike and no gap is lost. A curve with at most two points per bucket stays as it is.
    """
    if len(points) <= 2 * buckets:
        return points
    kept: list[Point] = [points[0]]
    inner = range(1, len(points) - 1)
    for bucket in range(buckets):
        part = inner[len(inner) * bucket // buckets : len(inner) * (bucket + 1) // buckets]
        finite = [index for index in part if math.isfinite(points[index].y)]
        chosen = (
            {min(finite, key=lambda index: points[index].y), max(finite, key=lambda index: points[index].y)}
            if finite
            else set()
        )
        if len(finite) < len(part):
            chosen.add(next(index for index in part if not math.isfinite(points[index].y)))
        kept += [points[index] for index in sorted(chosen)]
    kept.append(points[-1])
    return kept


def _gaps(points: Sequence[Point]) -> Iterator[Gap]:
    for finite, stretch in groupby(points, key=lambda point: math.isfinite(point.y)):
        if not finite:
            inside = list(stretch)
            kinds = {str(point.y): point.y for point in inside}
            yield Gap(inside[0].x, inside[-1].x, len(inside), tuple(kinds.values()))
