"""What is seen inside a training: activations, gradients, confusion, throughput. Each is a record; some are events.

The events have dotted names, as anybody's own: a log that has them is read by any nntrain. `defer_build` makes the
validators when they are first used, so that whoever imports the log does not wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from pydantic import Field

from nntrain.values.log_event import Level, LogEvent
from nntrain.values.record import Record


class LayerActivations(Record, frozen=True, defer_build=True):
    """What one layer gave for one batch.

    `layer` is its name in the model, with `:2` where it is called for the second time; `kind` is its class. `shape` is
    that of the output, the batch first. `mean` and `std` (without Bessel's correction) are over all of its values.
    `dead` is the share of its units that are 0 for each sample of the batch: a unit is one element of a sample's
    output. `histogram` counts the absolute values, in bins of equal width from 0 to `Activations.high`; the last one
    has all that are greater, and what is NaN is in none.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    mean: float
    std: float
    dead: float
    histogram: tuple[int, ...]

    @property
    def near_zero(self) -> float:
        """The share of the values that are in the histogram's first bin; NaN where it has none."""
        counted = sum(self.histogram)
        return self.histogram[0] / counted if counted else math.nan


class Activations(LogEvent, frozen=True, defer_build=True):
    """What each layer of a model gave for one batch, in the order in which they ran.

    The histograms have bins of equal width, from 0 to `high`.
    """

    level: ClassVar[Level] = "debug"
    event: Literal["nntrain.activations"] = "nntrain.activations"
    high: float
    layers: tuple[LayerActivations, ...]

    def __str__(self) -> str:
        rows = [
            (one.layer, one.kind, str(list(one.shape)), f"{one.mean:.3g}", f"{one.std:.3g}", f"{one.dead:.1%}")
            for one in self.layers
        ]
        return columns(("layer", "kind", "shape", "mean", "std", "dead"), rows, left=3)


class ParameterGradients(Record, frozen=True, defer_build=True):
    """The gradient of one parameter: its 2-norm, and the mean and the greatest of its absolute values."""

    name: str
    shape: tuple[int, ...]
    norm: float
    mean: float
    largest: float


class GradientFlow(Record, frozen=True, defer_build=True):
    """The gradients of a model's parameters for one batch, in the model's order.

    `without` are the names of those that require a gradient and got none: the loss does not depend on them.
    """

    loss: float
    params: tuple[ParameterGradients, ...]
    without: tuple[str, ...] = ()

    @property
    def norm(self) -> float:
        """The 2-norm of all gradients together."""
        return math.hypot(*(one.norm for one in self.params))

    def __str__(self) -> str:
        rows = [
            (one.name, str(list(one.shape)), f"{one.norm:.3g}", f"{one.mean:.3g}", f"{one.largest:.3g}")
            for one in self.params
        ]
        rows += [(name, "", "none", "", "") for name in self.without]
        return columns(("parameter", "shape", "norm", "mean |g|", "max |g|"), rows, left=2)


class ConfusionMatrix(LogEvent, frozen=True, defer_build=True):
    """How often which class was taken for which: `counts[i][j]` samples of class `labels[i]` were taken for class j."""

    event: Literal["nntrain.confusion_matrix"] = "nntrain.confusion_matrix"
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def samples(self) -> int:
        """The number of samples."""
        return sum(map(sum, self.counts))

    @property
    def accuracy(self) -> float:
        """The share of samples that were taken for what they are; NaN where there is none."""
        return _share(sum(row[at] for at, row in enumerate(self.counts)), self.samples)

    @property
    def recalls(self) -> tuple[float, ...]:
        """Of each class, the share of its samples that were taken for it; NaN where it has none."""
        return tuple(_share(row[at], sum(row)) for at, row in enumerate(self.counts))

    @property
    def precisions(self) -> tuple[float, ...]:
        """Of each class, the share of the samples taken for it that are of it; NaN where none was."""
        return tuple(_share(self.counts[at][at], sum(row[at] for row in self.counts)) for at in range(len(self.counts)))

    def most_confused(self, most: int = 10) -> tuple[tuple[str, str, int], ...]:
        """Return what was mistaken for what, and how often, the most frequent first: (label, taken for, count)."""
        found = [
            (self.labels[at], self.labels[taken], count)
            for at, row in enumerate(self.counts)
            for taken, count in enumerate(row)
            if at != taken and count
        ]
        return tuple(sorted(found, key=lambda one: -one[2])[:most])

    def __str__(self) -> str:
        rows = [(label, *map(str, row)) for label, row in zip(self.labels, self.counts, strict=True)]
        return columns(("target \\ taken for", *self.labels), rows, left=1)


class Throughput(LogEvent, frozen=True, defer_build=True):
    """How fast a phase went since it was last told, and how much memory is used.

    `device_bytes` are what torch's tensors take of a CUDA device now, `device_peak_bytes` at most since the process
    began; they are there on CUDA only. `process_peak_bytes` is the most that the process had in memory, where the
    system tells it.
    """

    level: ClassVar[Level] = "debug"
    event: Literal["nntrain.throughput"] = "nntrain.throughput"
    samples_per_s: float = Field(ge=0)
    batches_per_s: float = Field(ge=0)
    device_bytes: int | None = Field(default=None, ge=0)
    device_peak_bytes: int | None = Field(default=None, ge=0)
    process_peak_bytes: int | None = Field(default=None, ge=0)


class OperatorTime(Record, frozen=True, defer_build=True):
    """An operator of a profile: how often it was called, and the seconds spent in it and in nothing that it called.

    `device_seconds` are those on an accelerator, 0 where there is none.
    """

    name: str
    calls: int
    seconds: float
    device_seconds: float


class Profiled(LogEvent, frozen=True, defer_build=True):
    """Some steps were profiled: the file with the trace, the first and the last step, and the slowest operators."""

    event: Literal["nntrain.profiled"] = "nntrain.profiled"
    path: str
    first: int = Field(ge=0)
    last: int = Field(ge=0)
    slowest: tuple[OperatorTime, ...]


Look = Activations | Throughput
"""The events that come again and again within a phase, as batches do."""
LOOKS: Final = (Activations, Throughput)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Return a table as text: the first `left` columns stand at their left, the others at their right."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
