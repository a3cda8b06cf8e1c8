"""The rule that makes one step of several batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, Gradients
from nntrain.values.sums import Weight
from nntrain.values.tensors import OptimState

NAME: Final = "accumulate"
"""Of the rule's memory in a state."""


@dataclass(frozen=True)
class Accumulate:
    """What `accumulate` returns."""

    name: ClassVar[str] = NAME
    batches: int

    def __post_init__(self) -> None:
        n = self.batches
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"accumulate takes how many batches make a step, a whole number from 1; got {n!r:.80}.")

    def __repr__(self) -> str:
        return f"accumulate({self.batches})"

    def bind(self, params: dict[str, Tensor], /) -> BoundAccumulate:
        """Return the rule over live parameters."""
        return BoundAccumulate(self.batches, {name: param.dtype for name, param in params.items()})


class BoundAccumulate(Bound):
    """Adds gradients up until a window of batches is full.

    It remembers the number of `batches`, the sum of each parameter's gradients, each times its weight, and the sum of
    the weights. Both are in units of the first batch's weight: batches that weigh the same are simply added, so that
    the mean has the bits of a loop that adds up gradients and divides by their number.
    """

    def __init__(self, batches: int, dtypes: Mapping[str, torch.dtype]) -> None:
        super().__init__()
        self.window: int = batches
        self._dtypes = dtypes
        self.empty()

    def empty(self) -> None:
        """Begin a window."""
        self.memory.clear()
        if self.window > 1:
            self.memory.update(batches=0, unit=0, weight=0.0, sums={})

    def write(self, gradients: Gradients, at: At, /) -> bool:
        """Add the gradients up. Where the window is full, give their mean in their place, and begin another."""
        if self.window == 1:
            return True
        memory = self.memory
        last = bool(memory["batches"] + 1 >= self.window)
        self._add(gradients, at.weight, last=last)
        if last:
            self.give(gradients)
        else:
            memory["batches"] += 1
        return last

    def give(self, gradients: Gradients) -> None:
        """Put the window's mean in the gradients' place, and begin another window."""
        sums, weight = self.memory["sums"], self.memory["weight"]
        weight = torch.where(weight != 0, weight, 1.0) if isinstance(weight, Tensor) else weight or 1.0
        gradients.clear()
        if sums:
            means = torch._foreach_div(list(sums.values()), weight)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
            gradients.update({name: mean.to(self._dtypes[name]) for name, mean in zip(sums, means, strict=True)})
        self.empty()

    def _add(self, gradients: Gradients, weight: Weight, *, last: bool) -> None:
        """Add a batch's gradients; the `last` of a window to other tensors than those of the sums.

        So a failure before the optimizer writes leaves the state before whole.
        """
        memory = self.memory
        sums: dict[str, Tensor] = memory["sums"]
        if isinstance(weight, Tensor):
            weight = weight.detach()
            if isinstance(memory["unit"], int) and not memory["unit"]:
                memory["unit"] = torch.where(weight != 0, weight, 1).clone()
            share: Any = weight / memory["unit"]
            # A batch that weighs 0 adds nothing, whatever its gradient is.
            found = [torch.where(weight != 0, gradient * share, 0) for gradient in gradients.values()]
        elif not weight:
            return
        else:
            memory["unit"] = memory["unit"] or weight
            share = weight / memory["unit"]
            found = list(gradients.values())
            if isinstance(share, Tensor) or share != 1.0:
                found = [*torch._foreach_mul(found, share)]  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        memory["weight"] = memory["weight"] + share
        known = {name: gradient for name, gradient in zip(gradients, found, strict=True) if name in sums}
        before, more = [sums[name] for name in known], list(known.values())
        if known and not last:
            torch._foreach_add_(before, more)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        elif known:
            after = torch._foreach_add(before, more)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
            sums = memory["sums"] = {**sums, **dict(zip(known, after, strict=True))}
        for name, gradient in zip(gradients, found, strict=True):
            if name not in known:
                sums[name] = gradient.to(torch.promote_types(gradient.dtype, torch.float32))  # halves would lose bits


def collected_in(optim: OptimState) -> int:
    """Return how many batches' gradients a state keeps, to be written with those of the next."""
    kept: Mapping[str, Any] = optim.rules.get(NAME, {})
    return int(kept.get("batches", 0))


def accumulate(n: int) -> Accumulate:
    """Return a rule that makes one step of `n` batches: of their mean gradient, each counting by its batch's weight.

    The rules after it wait until `n` batches are in. A window that the train phase's end cuts short is written then,
    with its own weight; one that a cancelled phase leaves goes on in the next. `progress.step` counts what is written.
    Sums are kept in float32 at least, and are dense. `accumulate(1)` changes no bit. Raises `ConfigError` for what is
    no whole number from 1.
    """
    return Accumulate(n)
