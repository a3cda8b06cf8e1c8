"""A batch in flight: what is known of it between its forward pass and the end of the optimizer's write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nntrain.data.dividing import Part
from nntrain.values.sums import Weight
from nntrain.values.tensors import Tensors


def nobody() -> None:
    """Return None, as a weak reference does to what is gone: for where there is none yet."""


class Flight:
    """One batch on its way through a workspace.

    It is `due` from the end of the backward pass until the optimizer begins to write. Whoever reads the value of its
    handle meanwhile makes the workspace write at once; nobody can tell.
    """

    __slots__ = ("bits", "closure", "due", "handle", "launch", "lr_scale", "part", "step", "steps", "weight", "writing")

    def __init__(self, step: int | None, lr_scale: float, *, steps: bool) -> None:
        self.step: int | None = step
        """The optimizer's step that this is; None in eval, where the optimizer writes nothing."""
        self.steps: bool = steps
        """Whether the optimizer is to write: not in eval, nor where gradients wait for those of more batches."""
        self.weight: Weight | None = 1
        """How much the batch weighs; None where there is none, and what waits is written."""
        self.part: Part[Any] | None = None
        """This rank's part of the batch, where there are other ranks."""
        self.bits: int = 0
        """What is drawn in the batch is seeded with."""
        self.lr_scale: float = lr_scale
        """What the learning rate is multiplied with."""
        self.closure: Callable[[], Tensor] | None = None
        """Evaluates the model again, for optimizers that ask for it."""
        self.launch: Callable[[Callable[[], None]], None] | None = None
        """Takes the optimizer's step in its own way, as a recording does, given the plain way."""
        self.handle: Callable[[], Tensors | None] = nobody
        """On the value after this batch. Weak: a value that nobody holds need not be made."""
        self.due: bool = False
        """Whether that value is still to be written."""
        self.writing: bool = False
        """Whether the optimizer is amid writing it: what it calls is not to read that value. Other threads wait."""
