"""The running sums of a phase, weighted by samples, where adding to them is cheapest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from torch import Tensor, nn

from nntrain.values.bits import same_bits, same_tensor
from nntrain.values.flattening import Flat, Flattener
from nntrain.values.memory import Memory, as_plain, memory_copy
from nntrain.values.record import Record, evolved

Weight = int | float | Tensor
"""How much a batch weighs in the means: its samples as a rule. An int is 1 or more, and known at once; anything else,
as a 0-dim tensor on a device, is summed where the loss is."""


class WeightedSums(Flat):
    """Weighted sums of the loss and of each metric, in float64, where they are cheapest.

    On a CPU reading a number out of a tensor waits for nothing, so the sums are Python floats. On a device they are
    one float64 tensor there, and nothing waits until the phase is done. Weights that are no ints are summed as one more
    value, the last: `Sums.samples` does not count them.

    What has no sum goes along: `memory` is what the metrics of a whole phase remember, by their names, and `carried`
    what the last batch hands to the next, by the names of the tasks that do so. Nobody writes to them:
    `nntrain.metrics.phase` and `nntrain.task.carrying` see to that.
    """

    __slots__ = ("_values", "carried", "has_loss", "memory", "metrics")

    def __init__(
        self,
        values: Sequence[float] | Tensor = (),
        metrics: tuple[str, ...] = (),
        memory: Mapping[str, Memory] = MappingProxyType({}),
        *,
        has_loss: bool = True,
        carried: Mapping[str, Memory] = MappingProxyType({}),
    ) -> None:
        self._values = values
        self.metrics: tuple[str, ...] = metrics
        """The names of the metrics, in the order of the sums; the loss comes before them."""
        self.memory: Mapping[str, Memory] = memory
        self.carried: Mapping[str, Memory] = carried
        self.has_loss: bool = has_loss
        """Whether the last batch had a loss, which in eval it need not; without one its mean is NaN."""

    def add(
        self,
        means: Sequence[Tensor | float],
        samples: Weight,
        device: torch.device | None,
        metrics: tuple[str, ...],
        *,
        memory: Mapping[str, Memory] = MappingProxyType({}),
        has_loss: bool = True,
        carried: Mapping[str, Memory] = MappingProxyType({}),
    ) -> WeightedSums:
        """Add one batch: `means` are the loss and each of `metrics`, means over `samples`. The others go along.

        The sums live on `device`; None keeps them as Python floats, for a device that reading waits for nothing. A
        batch that weighs 0 adds nothing, whatever its means are.
        """
        values = self._added(means, samples, device)
        return WeightedSums(values, metrics, memory, has_loss=has_loss, carried=carried)

    def plus(
        self,
        sums: Tensor,
        metrics: tuple[str, ...],
        *,
        memory: Mapping[str, Memory] = MappingProxyType({}),
        has_loss: bool = True,
    ) -> WeightedSums:
        """Add one batch by its `sums`, which may be overwritten afterwards. The others go along."""
        return WeightedSums(self._plus(sums), metrics, memory, has_loss=has_loss)

    def _added(
        self, means: Sequence[Tensor | float], samples: Weight, device: torch.device | None
    ) -> Sequence[float] | Tensor:
        before = self._values
        if not isinstance(samples, int):
            if device is not None or isinstance(before, Tensor):
                return self._plus(WeightedSums.summed(means, samples, device))
            weight = float(samples)
            padded = [*before, *[0.0] * (len(means) + 1 - len(before))]
            weighted = [float(mean) * weight if weight else 0.0 for mean in means]
            return [old + new for old, new in zip(padded, [*weighted, weight], strict=True)]
        if device is None and not isinstance(before, Tensor):
            if not before:
                return [float(mean) * samples for mean in means]
            added = list(before)
            for index, mean in enumerate(means):
                added[index] += float(mean) * samples
            return added
        here = [mean for mean in means if isinstance(mean, Tensor) and mean.device == device]
        if len(here) == len(means) and all(mean.dtype == torch.float32 for mean in here):
            # A float64 holds such a mean times samples exactly: here two launches come to the bits of the five below.
            return self._plus(torch.stack(here), samples)
        return self._plus(WeightedSums.summed(means, samples, device))

    @staticmethod
    def summed(means: Sequence[Tensor | float], samples: Weight, device: torch.device | None) -> Tensor:
        """Return one batch's sums, float64 on `device`: `means` times `samples`, and that itself if it is no int."""
        parts = [
            mean.to(device=device, dtype=torch.float64)
            if isinstance(mean, Tensor)
            else torch.tensor(mean, dtype=torch.float64, device=device)
            for mean in means
        ]
        if isinstance(samples, int):
            return torch.stack(parts).mul_(samples)
        if isinstance(samples, Tensor):
            weight = samples.to(device=device, dtype=torch.float64)
        else:
            weight = torch.full((), samples, dtype=torch.float64, device=device)
        return torch.where(weight != 0, torch.stack([*parts, torch.ones_like(weight)]) * weight, 0.0)

    def _plus(self, means: Tensor, samples: int = 1) -> Tensor:
        """Add one batch's means over `samples`, or its sums."""
        before = self._values
        if not isinstance(before, Tensor):
            if not before:
                return means.to(torch.float64, copy=True).mul_(samples)
            before = torch.tensor(before, dtype=torch.float64, device=means.device)
        if before.shape != means.shape:  # one of the two has weights that are no ints
            longest = max(len(before), len(means))
            before, means = (nn.functional.pad(one, (0, longest - len(one))) for one in (before, means))
        return torch.add(before.to(means.device), means, alpha=samples)

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:  # noqa: ARG002 - of one tensor at most
        """Return the sums, on a device as the tensor that they are, the metrics' names, and what goes along, if any."""
        values = self._values
        parts: dict[str, object] = {
            "values": values if isinstance(values, Tensor) else list(values),
            "metrics": self.metrics,
        }
        if self.memory:
            parts["memory"] = as_plain(dict(self.memory))
        if self.carried:
            parts["carried"] = dict(self.carried)
        return "totals", parts if self.has_loss else {**parts, "has_loss": False}

    def tolist(self) -> list[float]:
        """Read the sums of the loss and each metric; on a device, this waits for it."""
        return self._read()[: 1 + len(self.metrics)]

    def whole(self) -> list[float]:
        """Read all that is summed: of the loss, of each metric and, if there are such, of weights that are no ints."""
        return self._read()

    @property
    def weight(self) -> float:
        """The sum of the weights that are no ints; on a device, this waits for it."""
        known = 1 + len(self.metrics)
        return self._read()[known] if len(self._values) > known else 0

    def sent(self) -> tuple[WeightedSums, Callable[[], bool]]:
        """Return the sums without what goes along, where reading waits for nothing once what comes with them is true.

        From CUDA they are sent behind what it has still to do, and nothing waits for that. Elsewhere they are as here.
        """
        values = self._values
        if not (isinstance(values, Tensor) and values.is_cuda):
            return WeightedSums(values, self.metrics, has_loss=self.has_loss), _is_there
        with torch.cuda.device(values.device):
            here = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            arrival = torch.cuda.Event()  # type: ignore[no-untyped-call] # it has no types
            arrival.record()
        return WeightedSums(here, self.metrics, has_loss=self.has_loss), arrival.query

    def _read(self) -> list[float]:
        values = self._values
        return values.tolist() if isinstance(values, Tensor) else list(values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightedSums):
            return NotImplemented
        if (self.metrics, self.has_loss) != (other.metrics, other.has_loss):
            return False
        if not same_bits((dict(self.memory), dict(self.carried)), (dict(other.memory), dict(other.carried))):
            return False
        mine, theirs = self._values, other._values
        if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
            return same_tensor(mine, theirs)
        return same_bits(self._read(), other._read())

    def __hash__(self) -> int:
        return hash(WeightedSums)

    def __repr__(self) -> str:
        return f"WeightedSums({self.tolist()})"

    def __deepcopy__(self, memo: dict[int, object]) -> WeightedSums:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(cls.tolist)
        )


def _is_there() -> bool:
    return True


class Sums(Record, Flat, frozen=True):
    """A phase's running sums: of loss and metrics over `samples`, the `batches` that ran, the `seconds` spent.

    `samples` is the sum of the weights that are ints; `weight` is that of all. Where several processes train together
    these are of this rank's parts of the batches alone, and `ranks` says how many there are; `others` are those of the
    other ranks, in their order, which a checkpoint has.
    """

    weighted: WeightedSums = WeightedSums()
    samples: int = 0
    batches: int = 0
    seconds: float = 0.0
    others: tuple[Sums, ...] = ()
    ranks: int = 1

    @property
    def memory(self) -> Mapping[str, Memory]:
        """What each `Metric` remembers of the phase, by its name. Every access gives a copy."""
        return {name: memory_copy(tree) for name, tree in self.weighted.memory.items()}

    @property
    def carried(self) -> Mapping[str, Memory]:
        """What the last batch hands to the next: under "task", or by objectives' names. Every access gives a copy."""
        return {name: memory_copy(tree) for name, tree in self.weighted.carried.items()}

    @property
    def weight(self) -> float:
        """What the batches weigh together, samples as a rule; on a device with weights there, this waits for it."""
        return self.samples + self.weighted.weight

    def sent(self) -> tuple[Sums, Callable[[], bool]]:
        """Return the same sums without what goes along, and what says whether `means` of them waits no more."""
        weighted, arrived = self.weighted.sent()
        return evolved(self, weighted=weighted), arrived

    def means(self) -> list[float]:
        """Read the means of the loss and each metric, NaN where nothing has any weight; on a device, this waits."""
        weight = self.weight
        return [total / weight if weight else math.nan for total in self.weighted.tolist()]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sums):
            return NotImplemented
        mine, theirs = ((one.samples, one.batches, one.weighted, one.others) for one in (self, other))
        return mine == theirs

    def __hash__(self) -> int:
        return hash((self.samples, self.batches))

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:  # noqa: ARG002 - the fields are taken apart by it
        """Return the fields by the names that they have in a checkpoint."""
        fields = {"totals": self.weighted, "samples": self.samples, "batches": self.batches, "seconds": self.seconds}
        return "record", {**fields, "others": self.others} if self.others else fields
