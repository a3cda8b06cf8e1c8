"""The rule that makes one step of several batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, Gradients
from nntrain.values.numbers import is_count
from nntrain.values.sums import Weight
from nntrain.values.tensors import OptimState

NAME: Final = "accumulate"
"""Of the rule's memory in a state."""
_EXACT: Final = 2.0**64
"""Up to here the reciprocal of a power of two is exact in every type, so that a product, which is faster, is the same
as a quotient."""


Weighed = tuple[Gradients, Weight, Weight]
"""A batch's gradients times its weight, the unit of weights, and the window's weight."""


@dataclass(frozen=True)
class Accumulate:
    """What `accumulate` returns."""

    name: ClassVar[str] = NAME
    batches: int

    def __post_init__(self) -> None:
        n = self.batches
        if not is_count(n, 1):
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
        self._whole = all(torch.promote_types(dtype, torch.float32) == dtype for dtype in dtypes.values())
        """Whether sums have their parameters' types: those of halves are wider."""
        self.empty()

    def empty(self) -> None:
        """Begin a window."""
        self.memory.clear()
        if self.window > 1:
            self.memory.update(batches=0, unit=0, weight=0.0, sums={})

    @property
    def full(self) -> bool:
        """Whether the next batch is the last of the window."""
        return self.window == 1 or bool(self.memory["batches"] + 1 >= self.window)

    def write(self, gradients: Gradients, at: At, /) -> bool:
        """Add the gradients up. Where the window is full, give their mean in their place, and begin another."""
        if self.window == 1:
            return True
        if not self.full:
            self.add(self.weighed(gradients, at.weight))
            return False
        mean = {**self.mean(gradients, at.weight)}  # which may be the very gradients
        gradients.clear()
        gradients.update(mean)
        self.empty()
        return True

    def add(self, weighed: Weighed) -> None:
        """Add a batch's gradients to the sums, as `weighed` returned them."""
        memory, (found, unit, total) = self.memory, weighed
        sums: dict[str, Tensor] = memory["sums"]
        if self._takes_in(found):
            sums.update(found)
        elif found and [*found] == [*sums]:
            torch._foreach_add_(list(sums.values()), list(found.values()))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        else:
            sums.update({name: self._sum(sums.get(name), one) for name, one in found.items()})
        memory.update(batches=memory["batches"] + 1, unit=unit, weight=total)

    def mean(self, gradients: Gradients, weight: Weight | None) -> Gradients:
        """Return the mean of the window with its last batch, in that batch's own memory where it can be.

        The window itself stays as it is: `empty` begins another. With a weight of None there is no last batch.
        """
        sums: dict[str, Tensor] = self.memory["sums"]
        found, _, total = self.weighed(gradients, 0 if weight is None else weight)
        total = torch.where(total != 0, total, 1.0) if isinstance(total, Tensor) else total or 1.0
        if self._takes_in(found):
            mean = list(found.values())
            if isinstance(total, float) and math.frexp(total)[0] == 0.5 and total < _EXACT:
                torch._foreach_mul_(mean, 1 / total)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
            else:
                torch._foreach_div_(mean, total)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
            return found
        sums = {**sums, **{name: self._sum(sums.get(name), one) for name, one in found.items()}}
        return {name: (one / total).to(self._dtypes[name]) for name, one in sums.items()}

    def _takes_in(self, found: Gradients) -> bool:
        """Add the sums to a batch's gradients, in their memory, where these are of the same parameters, and as exact.

        Return whether they were.
        """
        sums: dict[str, Tensor] = self.memory["sums"]
        if not self._whole or not found or (sums and [*found] != [*sums]):
            return False
        if sums:
            torch._foreach_add_(list(found.values()), list(sums.values()))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        return True

    def weight(self, weight: Weight | None) -> float:
        """Return the window's weight with its last batch's."""
        _, unit, total = self.weighed({}, 0 if weight is None else weight)
        return float(unit * total)

    def weighed(self, gradients: Gradients, weight: Weight) -> Weighed:
        """Return the gradients times their batch's weight, the unit of it, and the window's weight with it.

        Weights are in units of the first that is not 0. A batch that weighs 0 adds nothing, whatever its gradient is.
        """
        unit, total = self.memory["unit"], self.memory["weight"]
        if isinstance(weight, Tensor):
            weight = weight.detach()
            if isinstance(unit, int) and not unit:
                unit = torch.where(weight != 0, weight, 1).clone()
            share: Any = weight / unit
            found = {name: torch.where(weight != 0, one * share, 0) for name, one in gradients.items()}
            return found, unit, total + share
        if not weight:
            return {}, unit, total
        unit = unit or weight
        share = weight / unit
        if gradients and (isinstance(share, Tensor) or share != 1.0):
            scaled = torch._foreach_mul(list(gradients.values()), share)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
            gradients = dict(zip(gradients, scaled, strict=True))
        return gradients, unit, total + share

    @staticmethod
    def _sum(sums: Tensor | None, gradient: Tensor) -> Tensor:
        """Return a sum with a gradient more, in memory of its own, or the gradient's; halves would lose bits."""
        wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        return wide if sums is None else sums + wide


def joined(shares: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the memory of a window whose batches were divided over ranks, each of which has its own of them."""
    unit = next((one["unit"] for one in shares if float(one["unit"])), 0)
    sums: dict[str, Tensor] = {}
    weight: Any = 0.0
    for one in shares:
        ratio = one["unit"] / unit if float(one["unit"]) else 0.0
        weight = weight + one["weight"] * ratio
        for name, part in one["sums"].items():
            scaled = part if ratio == 1.0 else part * ratio
            sums[name] = sums[name] + scaled if name in sums else scaled
    return {"batches": shares[0]["batches"], "unit": unit, "weight": weight, "sums": sums}


def nothing_of(share: Mapping[str, Any]) -> dict[str, Any]:
    """Return the memory of a rank that has nothing of a window of as many batches."""
    return {"batches": share["batches"], "unit": share["unit"], "weight": 0.0, "sums": {}}


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
