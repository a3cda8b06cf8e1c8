"""Metrics of a whole phase as users write them, with memories of each kind, and what they are to come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from nntrain import Metric, Record, StepOutput

CLASSES: Final = 3


def counts_of(preds: Tensor, target: Tensor) -> Tensor:
    """Give how often each class (rows) was predicted as each (columns), int64."""
    return torch.bincount(target * CLASSES + preds.argmax(1), minlength=CLASSES**2).view(CLASSES, CLASSES)


def macro_f1(counts: Tensor) -> Tensor:
    hits = counts.diag()
    return (2 * hits / (counts.sum(0) + counts.sum(1)).clamp(min=1)).mean()


def auroc(scores: Tensor, positive: Tensor) -> Tensor:
    """Give the share of (positive, negative) pairs that are ranked rightly, ties as halves; 0.5 where there is none."""
    ones, zeros = scores[positive], scores[~positive]
    pairs = (ones[:, None] > zeros).double() + 0.5 * (ones[:, None] == zeros).double()
    return pairs.mean() if pairs.numel() else torch.tensor(0.5, dtype=torch.float64)


def scores_of(output: StepOutput[Any]) -> tuple[Tensor, Tensor]:
    target = output.target
    assert isinstance(target, Tensor)
    return output.preds, target


class F1(Metric[Tensor]):
    """Remembers one tensor, of counts."""

    def init(self) -> Tensor:
        return torch.zeros(CLASSES, CLASSES, dtype=torch.int64)

    def update(self, memory: Tensor, output: StepOutput[Any], /) -> Tensor:
        return memory + counts_of(*scores_of(output))

    def merge(self, one: Tensor, other: Tensor, /) -> Tensor:
        return one + other

    def compute(self, memory: Tensor, /) -> Tensor:
        return macro_f1(memory)


class Ranked(NamedTuple):
    scores: tuple[Tensor, ...] = ()
    positive: tuple[Tensor, ...] = ()


class Auroc(Metric[Ranked]):
    """Remembers every batch's scores: a named tuple of tuples that grow, of views of the batch's own tensors."""

    def init(self) -> Ranked:
        return Ranked()

    def update(self, memory: Ranked, output: StepOutput[Any], /) -> Ranked:
        preds, target = scores_of(output)
        return Ranked((*memory.scores, preds[:, 1]), (*memory.positive, target == 1))

    def merge(self, one: Ranked, other: Ranked, /) -> Ranked:
        return Ranked(one.scores + other.scores, one.positive + other.positive)

    def compute(self, memory: Ranked, /) -> Tensor:
        return auroc(torch.cat(memory.scores), torch.cat(memory.positive))


@dataclass(frozen=True, slots=True)
class Weighted:
    total: Tensor
    weight: float


class WeightedMean(Metric[Weighted]):
    """Remembers a tensor and a number, in a dataclass."""

    def init(self) -> Weighted:
        return Weighted(torch.zeros((), dtype=torch.float64), 0.0)

    def update(self, memory: Weighted, output: StepOutput[Any], /) -> Weighted:
        assert output.weight is not None
        mean, weight = scores_of(output)[0].double().mean(), float(output.weight)
        return Weighted(memory.total + mean * weight, memory.weight + weight)

    def merge(self, one: Weighted, other: Weighted, /) -> Weighted:
        return Weighted(one.total + other.total, one.weight + other.weight)

    def compute(self, memory: Weighted, /) -> Tensor:
        return memory.total / memory.weight


class Extent(Record, frozen=True):
    low: Tensor
    high: Tensor
    seen: dict[str, int]


class Range(Metric[Extent]):
    """Remembers a record with a mapping inside, and gives named numbers."""

    names = ("low", "high", "samples")

    def init(self) -> Extent:
        return Extent(low=torch.tensor(torch.inf), high=torch.tensor(-torch.inf), seen={"samples": 0})

    def update(self, memory: Extent, output: StepOutput[Any], /) -> Extent:
        preds, target = scores_of(output)
        seen = {"samples": memory.seen["samples"] + len(target)}
        return Extent(
            low=torch.minimum(memory.low, preds.min()), high=torch.maximum(memory.high, preds.max()), seen=seen
        )

    def merge(self, one: Extent, other: Extent, /) -> Extent:
        seen = {"samples": one.seen["samples"] + other.seen["samples"]}
        return Extent(low=torch.minimum(one.low, other.low), high=torch.maximum(one.high, other.high), seen=seen)

    def compute(self, memory: Extent, /) -> Mapping[str, Tensor | int]:
        return {"low": memory.low, "high": memory.high, "samples": memory.seen["samples"]}


OWN: Final[Mapping[str, Callable[[], Metric[Any]]]] = {"f1": F1, "auroc": Auroc, "mean": WeightedMean, "range": Range}
EXACT: Final = frozenset({"f1", "auroc", "range/low", "range/high", "range/samples", "cm", "iou"})


def expected(preds: Tensor, target: Tensor) -> dict[str, float]:
    """Give the values of all of `OWN`, of all samples at once."""
    return {
        "f1": macro_f1(counts_of(preds, target)).item(),
        "auroc": auroc(preds[:, 1], target == 1).item(),
        "mean": preds.double().mean().item(),
        "range/low": preds.min().item(),
        "range/high": preds.max().item(),
        "range/samples": len(target),
    }
