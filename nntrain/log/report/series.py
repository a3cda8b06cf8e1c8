"""The curves of a run, as points: of finished phases and of batches, against the epochs that lie behind."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from nntrain.log.events import BatchFinished, EpochFinished
from nntrain.log.line import Line
from nntrain.log.replay import Run
from nntrain.log.text import as_float
from nntrain.values.history import EpochStats
from nntrain.values.progress import Phase

PHASES: Final[tuple[Phase, ...]] = ("train", "eval")


class Point(NamedTuple):
    """A value `y`, which may be no finite number, at `x` epochs; `at` is what else the reader sees of it."""

    x: float
    y: float
    at: tuple[int, ...]


class Gap(NamedTuple):
    """A stretch of a curve, `first` to `last` epochs, in which `length` values in a row are no finite numbers."""

    first: float
    last: float
    length: int
    values: tuple[float, ...]
    """Which: not a number, or infinite. Each once."""


@dataclass(frozen=True)
class Series:
    """The points of one curve of one run: `whole` is how many there were before it was thinned out."""

    phase: Phase
    points: Sequence[Point]
    whole: int
    gaps: tuple[Gap, ...]

    @classmethod
    def of(cls, phase: Phase, points: Sequence[Point], buckets: int) -> Series:
        """Make the curve of points, thinned out to so many buckets."""
        return cls(phase, thinned(points, buckets), len(points), tuple(_gaps(points)))

    @property
    def is_drawn(self) -> bool:
        """Tell whether there is a finite point in it."""
        return any(math.isfinite(point.y) for point in self.points)

    def near(self, x: float) -> float | None:
        """Give the curve's height at `x`, between its finite points; None where it has none."""
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
    """Where on the axis of epochs something lies: the end of epoch 0 is at 1, and half of its training at 0.5.

    Eval comes after the training of its epoch, so its marks are at the epoch's end; its batches are drawn over the
    same width as those of the training.
    """

    def __init__(self, run: Run) -> None:
        named = {"train": "train_batches", "eval": "valid_batches"}
        self._batches: dict[Phase, int] = {}
        for phase in PHASES:
            said = run.config.get(named[phase])
            seen = [stats.batches for stats in run.history if stats.phase == phase]
            seen += [line.batch for line in (*run.batches, *run.events) if line.phase == phase]
            known = said if isinstance(said, int) and not isinstance(said, bool) else 0
            self._batches[phase] = max(1, known, *seen)

    def batch(self, line: Line) -> float:
        """Give the place of a batch's line."""
        return as_float(line.epoch) + min(1.0, as_float(line.batch) / as_float(self._batches[line.phase]))

    def mark(self, line: Line) -> float:
        """Give the place of an event's line."""
        if line.phase == "eval" or isinstance(line.event, EpochFinished):
            return as_float(line.epoch) + 1.0
        return self.batch(line)


def metrics_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Give the names of all metrics, in the order in which they come."""
    found: dict[str, None] = {}
    for run in runs:
        for stats in run.history:
            found |= dict.fromkeys(stats.metrics)
        for line in run.batches:
            if isinstance(line.event, BatchFinished) and not line.event.metrics.keys() <= found.keys():
                found |= dict.fromkeys(line.event.metrics)
    return tuple(found)


def by_epoch(run: Run, value: Callable[[EpochStats], float | None], buckets: int) -> Iterator[Series]:
    """Yield the curves of what `value` gives of each finished phase: one of train, one of eval, where there is one."""
    for phase in PHASES:
        points = [
            Point(as_float(stats.epoch) + 1.0, y, (stats.epoch,))
            for stats in run.history
            if stats.phase == phase and (y := value(stats)) is not None
        ]
        if points:
            yield Series.of(phase, points, buckets)


def by_batch(run: Run, value: Callable[[BatchFinished], float | None], buckets: int) -> Iterator[Series]:
    """Yield the curves of what `value` gives of each batch."""
    scale = Scale(run)
    points: Mapping[Phase, list[Point]] = {"train": [], "eval": []}
    for line in run.batches:
        if isinstance(line.event, BatchFinished) and (y := value(line.event)) is not None:
            points[line.phase].append(Point(scale.batch(line), y, (line.epoch, line.batch, line.step)))
    for phase in PHASES:
        if points[phase]:
            yield Series.of(phase, points[phase], buckets)


def loss(of: EpochStats | BatchFinished) -> float:
    """Give the loss of a phase or batch."""
    return of.loss


def metric(name: str) -> Callable[[EpochStats | BatchFinished], float | None]:
    """Give what gives a metric of a phase or batch; None where that has none of the name."""
    return lambda of: of.metrics.get(name)


def samples_per_s(stats: EpochStats) -> float | None:
    """Give how fast a phase was; None where its clock stood still."""
    return as_float(stats.samples) / stats.seconds if stats.seconds > 0 else None


def thinned(points: Sequence[Point], buckets: int) -> Sequence[Point]:
    """Give fewer points that look the same: of each bucket the least, the greatest and the first that is no number.

    So no spike and no gap gets lost. What has no more than two points a bucket stays as it is.
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
