"""What an update rule is: a frozen value, and what it binds to live parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from nntrain.values.sums import Weight

Gradients = dict[str, Tensor]
"""The gradients by the parameters' names, of those that have one. A rule writes them in place, or puts others there."""


class At(NamedTuple):
    """When a rule writes: the optimizer's `step` (0, 1, ...), and how much the batch weighs that it comes from.

    `bits` seed what a rule draws: a function of the state's key and the batch, and of nothing else. What the model
    draws in the batch is seeded with them, too. Of several objectives the last one's rule gets that weight, and the
    others, which write before it is known, get 1.

    `again` evaluates the batch once more, with the weights as they are then, and returns the gradients; a rule whose
    `evaluates` is true has it, any other None.
    """

    step: int
    weight: Weight = 1
    bits: int = 0
    again: Callable[[], Gradients] | None = None


class BoundRule(Protocol):
    """A rule over live parameters. What it remembers is all in `memory`, which is part of the state.

    One that has an attribute `told`, a dict of names to numbers or 0-dim tensors, tells them of its last `write`: to
    sinks in the batch's output, and in the log beside the batch's metrics. One that has an attribute `evaluates`, which
    is true, may evaluate the batch more than once: `at.again()`. The parameters are then to be what they were. One that
    stands after the optimizer and has a method `before(gradients)` is called just before the optimizer writes, too.
    """

    @property
    def memory(self) -> dict[str, object]:
        """What it remembers, by name: tensors, numbers, strings, and dicts, lists and tuples of these.

        It is copied, saved, compared and rolled back with the weights. So look it up at each `write`: another state's
        may have been put there. Tensors may be written in place, under torch's version counters, or exchanged.
        """
        ...

    def loss(self, loss: Tensor, /) -> Tensor:
        """Return the loss to go backward from: `loss` itself, unless the rule scales it."""
        ...

    def write(self, gradients: Gradients, at: At, /) -> bool:
        """Change the gradients, the parameters or the memory, in place. Return False if the rules after it are to wait.

        A batch counts as a step all the same, except where `accumulate` waits for more batches.
        """
        ...


class UpdateRule(Protocol):
    """How gradients become weights: a value, which never changes."""

    def bind(self, params: dict[str, Tensor], /) -> BoundRule:
        """Return the rule over live parameters, by name, with the memory that it has before any step."""
        ...


class Bound:
    """A bound rule that remembers nothing and leaves the loss as it is. The package's own are made on it."""

    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}

    def loss(self, loss: Tensor, /) -> Tensor:
        """Return the loss as it is."""
        return loss
