"""The numbers of lines as points of named curves: what TensorBoard, MLflow and Weights & Biases draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from nntrain.log.events import OWN, BatchFinished, EpochFinished
from nntrain.log.export.names import Names, sanitize
from nntrain.log.export.text import INT64
from nntrain.log.line import Line
from nntrain.values.looks import Activations

Axis = Literal["step", "evaluated"]
_LONGEST: Final = 150
"""The most characters of a metric's name in the name of a curve."""
_OURS: Final = frozenset({"loss", "lr", "seconds", "samples_per_s", "train_batch", "eval_batch"})


class Point(NamedTuple):
    """A value of a curve, at `x` of its axis."""

    curve: str
    value: float
    axis: Axis
    x: int


class Curves:
    """Turns the lines of one run into points.

    An epoch's phase: `loss/train`, `<metric>/train`, `seconds/train`, `samples_per_s/train` (the mean), and the same
    with `/eval`. A batch: `train_batch/loss`, `train_batch/<metric>`, `train_batch/lr`, `train_batch/samples_per_s`,
    and `eval_batch/...`. A custom event: each of its numbers, `acme.mixup/alpha`; the activations of a layer:
    `activations.mean/<layer>`, `activations.std/<layer>`, `activations.dead/<layer>`. A metric whose name is one of
    these is called `metric.<name>`. Of a set that has a name, that stands in the place of `eval`.

    The axis is the optimizer's step. In eval that does not change, so the axis of eval's batches is the number of
    batches evaluated so far.
    """

    def __init__(self) -> None:
        self._metrics = Names()
        self._names = Names()
        self._evaluated: dict[tuple[str, int], int] = {}
        self._evaluated_cache = (("", 0), 0)

    def points(self, line: Line) -> Iterator[Point]:
        """Yield the points of a line."""
        event = line.event
        if isinstance(event, EpochFinished):
            if line.phase == "eval":
                self._evaluated[line.data, line.epoch] = event.batches
                self._evaluated_cache = (("", -1), 0)
            rate = as_float(line.samples) / event.seconds if event.seconds > 0 else None
            ours = {"loss": _loss(event), "seconds": event.seconds, "samples_per_s": rate}
            for name, value in self._with_metrics(ours, event):
                yield self._point(
                    ("epoch", name, line.phase, line.data), f"{name}/{line.label}", value, "step", line.step
                )
        elif isinstance(event, BatchFinished):
            axis: Axis = "step" if line.phase == "train" else "evaluated"
            x = line.step if line.phase == "train" else self._evaluated_before(line.data, line.epoch) + line.batch
            ours = {"loss": _loss(event), "lr": event.lr, "samples_per_s": event.samples_per_s}
            for name, value in self._with_metrics(ours, event):
                yield self._point(("batch", name, line.phase, line.data), f"{line.label}_batch/{name}", value, axis, x)
        elif isinstance(event, Activations):
            for one in event.layers:
                for stat, value in (("mean", one.mean), ("std", one.std), ("dead", one.dead)):
                    thing = event.event, stat, one.layer
                    yield self._point(thing, f"activations.{stat}/{one.layer[:_LONGEST]}", value, "step", line.step)
        elif not isinstance(event, OWN):
            for name, value in {**event.__dict__, **(event.model_extra or {})}.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    yield self._point((event.event, name), f"{event.event[:_LONGEST]}/{name}", value, "step", line.step)

    def _point(self, thing: tuple[str, ...], wish: str, value: float, axis: Axis, x: int) -> Point:
        return Point(self._names.of(thing, wish), as_float(value), axis, min(x, INT64))

    def _evaluated_before(self, data: str, epoch: int) -> int:
        if self._evaluated_cache[0] != (data, epoch):
            before = sum(count for (name, other), count in self._evaluated.items() if name == data and other < epoch)
            self._evaluated_cache = ((data, epoch), before)
        return self._evaluated_cache[1]

    def _with_metrics(
        self, ours: dict[str, float | None], event: EpochFinished | BatchFinished
    ) -> Iterator[tuple[str, float]]:
        for name, value in ours.items():
            if value is not None:
                yield name, value
        for name, value in event.metrics.items():
            wish = name[:_LONGEST]
            yield self._metrics.of(name, f"metric.{wish}" if sanitize(wish) in _OURS else wish), value


def _loss(event: EpochFinished | BatchFinished) -> float | None:
    return None if event.has_loss is False else event.loss


def as_float(value: float) -> float:
    """Return a number as a float; an integer that is too large becomes infinite."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
