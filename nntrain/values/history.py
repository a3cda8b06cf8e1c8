"""What came of the finished phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from nntrain.values.bits import same_bits
from nntrain.values.flattening import Flat, Flattener
from nntrain.values.notebook import Cell, html_table
from nntrain.values.progress import Phase
from nntrain.values.record import FrozenMapping, Record


class EpochStats(Record, Flat, frozen=True):
    """The statistics of one finished phase.

    `loss` and `metrics` are means over `samples`, so that a short last batch counts for what it is: over the sum of
    what the learner's `weigh` said, where it has one, and `samples` is that to the nearest whole number. `batches` are
    those that ran. `data` is the name of the set that was evaluated, "" where it has none. What a `Metric` gives is no
    mean, but of all the phase's samples; its named numbers are called `"name/key"`. `seconds` is what the clock said,
    and takes no part in equality: the same training is the same.
    """

    epoch: int
    phase: Phase
    loss: float
    metrics: FrozenMapping[float] = FrozenMapping()
    samples: int
    batches: int
    seconds: float = 0.0
    has_loss: bool = True
    """Whether the phase's task gave a loss: in eval it need not, and `loss` is NaN then."""
    data: str = ""

    @property
    def label(self) -> str:
        """What the phase is called: the name of its set, else "train" or "eval"."""
        return self.data or self.phase

    def value(self, monitor: str) -> float | None:
        """Return the value that a monitor names, None where this phase does not have it, as an eval without a loss.

        "loss", or a metric's name, is of the eval phase; "train/loss" and "far/loss" are of the phase of that label.
        """
        values = {"loss": self.loss, **self.metrics} if self.has_loss else dict(self.metrics)
        if monitor in values:
            return values[monitor] if self.phase == "eval" else None
        label, _, name = monitor.partition("/")
        return values.get(name) if label == self.label else None

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:  # noqa: ARG002 - of no tensor
        """Return the fields; the newer ones only where they say something, so that older versions read them."""
        usual = {"data": "", "has_loss": True}
        fields = {name: one for name, one in self.__dict__.items() if name not in usual or one != usual[name]}
        return "record", fields

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EpochStats):
            return NotImplemented
        return same_bits(self._value(), other._value())

    def __hash__(self) -> int:
        return hash((self.epoch, self.phase, self.samples, self.batches))

    def _value(self) -> tuple[object, ...]:
        return (self.epoch, self.phase, self.data, self.loss, dict(self.metrics), self.samples, self.batches)


class History(tuple[EpochStats, ...]):
    """The finished phases, oldest first. Validated once when made, so that a long history costs a step nothing."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Return a table of the phases, which a notebook shows."""
        return phases_table(f"{len(self):,} finished phases", self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = handler.generate_schema(tuple[EpochStats, ...])
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), core_schema.no_info_after_validator_function(cls, plain)],
            mode="left_to_right",
            serialization=core_schema.plain_serializer_function_ser_schema(tuple, return_schema=plain),
        )


def phases_table(caption: str, phases: Sequence[EpochStats]) -> str:
    """Return the table of finished phases, as HTML."""
    names = [*dict.fromkeys(name for stats in phases for name in stats.metrics)]

    def row(stats: EpochStats) -> Sequence[Cell]:
        values = [stats.loss if stats.has_loss else None, *(stats.metrics.get(name) for name in names)]
        return stats.epoch, stats.label, *values, stats.samples, round(stats.seconds, 3)

    head = ("epoch", "phase", "loss", *names, "samples", "seconds")
    return html_table(caption, map(row, phases), head)
