"""What came of the finished phases."""

from __future__ import annotations

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from nntrain.values.bits import same_bits
from nntrain.values.progress import Phase
from nntrain.values.record import FrozenMapping, Record


class EpochStats(Record, frozen=True):
    """The statistics of one finished phase.

    `loss` and `metrics` are means over `samples`, so that a short last batch counts for what it is: over the sum of
    what the learner's `weigh` said, where it has one, and `samples` is that to the nearest whole number. `batches` are
    those that ran. What a `Metric` gives is no mean, but of all the phase's samples; its named numbers are called
    `"name/key"`. `seconds` is what the clock said, and takes no part in equality: the same training is the same.
    """

    epoch: int
    phase: Phase
    loss: float
    metrics: FrozenMapping[float] = FrozenMapping()
    samples: int
    batches: int
    seconds: float = 0.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EpochStats):
            return NotImplemented
        return same_bits(self._value(), other._value())

    def __hash__(self) -> int:
        return hash((self.epoch, self.phase, self.samples, self.batches))

    def _value(self) -> tuple[object, ...]:
        return (self.epoch, self.phase, self.loss, dict(self.metrics), self.samples, self.batches)


class History(tuple[EpochStats, ...]):
    """The finished phases, oldest first. Validated once when made, so that a long history costs a step nothing."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = handler.generate_schema(tuple[EpochStats, ...])
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), core_schema.no_info_after_validator_function(cls, plain)],
            mode="left_to_right",
            serialization=core_schema.plain_serializer_function_ser_schema(tuple, return_schema=plain),
        )
