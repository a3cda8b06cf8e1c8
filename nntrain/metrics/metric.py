"""`Metric`: what is measured of a whole phase, as the F1 of all its samples, which no mean of the batches' F1 is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final, Never, Protocol, TypeGuard, TypeVar

from torch import Tensor

from nntrain.values.output import StepOutput

Memory = TypeVar("Memory")
Number = int | float | Tensor
"""A number, or a 0-dim tensor of one."""


class Metric(Protocol[Memory]):
    """What is measured of a whole phase: its memory goes from batch to batch in the state, and its value is one number.

    `Memory` is a tree of tensors and numbers: a tensor, or a tuple, list, dict, named tuple, dataclass or `Record` of
    such trees. A metric is pure: it returns another memory and writes to none, since a state that somebody kept holds
    it. Any object with these four methods is one; a subclass of `Metric` is told at once which of them it lacks.

    Where `compute` returns named numbers, the value of the metric `auc` named `far` is called `auc/far`. An attribute
    `names`, a tuple of these names, lets a learner refuse at once who monitors another.
    """

    @abstractmethod
    def init(self) -> Memory:
        """Return the memory of no samples. It is moved to the training's device."""
        ...

    @abstractmethod
    def update(self, memory: Memory, output: StepOutput[Never], /) -> Memory:
        """Return the memory of a batch more: its `preds` (detached), its `target`, and its `weight` in the means."""
        ...

    @abstractmethod
    def merge(self, one: Memory, other: Memory, /) -> Memory:
        """Return the memory of the samples of both."""
        ...

    @abstractmethod
    def compute(self, memory: Memory, /) -> Number | Mapping[str, Number]:
        """Return the value for all samples that are remembered, or several by name."""
        ...


class WholePhaseMetric(Protocol):
    """A `Metric` of whatever memory, as an argument."""

    def init(self) -> object:
        """Return the memory of no samples."""
        ...

    def update(self, memory: Never, output: StepOutput[Never], /) -> object:
        """Return the memory of a batch more."""
        ...

    def merge(self, one: Never, other: Never, /) -> object:
        """Return the memory of the samples of both."""
        ...

    def compute(self, memory: Never, /) -> Number | Mapping[str, Number]:
        """Return the value for all samples that are remembered."""
        ...


METHODS: Final = ("init", "update", "merge", "compute")


def is_metric(thing: object) -> TypeGuard[Metric[Any]]:
    """Return whether a thing is meant as a `Metric`, or is a class of such: it may lack one or two of the methods.

    What collects by itself, as an object of torchmetrics (`update`, `compute` and `reset`), is not meant.
    """
    has = [name for name in METHODS if callable(getattr(thing, name, None))]
    return len(has) == len(METHODS) or (len(has) > 1 and not callable(getattr(thing, "reset", None)))
