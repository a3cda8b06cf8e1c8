"""The rule that leaves out what is not finite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nntrain.update.rule import At, Bound, Gradients
from nntrain.values.shards import is_sharded, over_parts, own_parts


@dataclass(frozen=True)
class SkipNonfinite:
    """What `skip_nonfinite` returns."""

    name: ClassVar[str] = "skip_nonfinite"

    def __repr__(self) -> str:
        return "skip_nonfinite()"

    def bind(self, params: dict[str, Tensor], /) -> BoundSkipNonfinite:
        """Return the rule over live parameters."""
        return BoundSkipNonfinite(next(iter(params.values())).device)


class BoundSkipNonfinite(Bound):
    """Counts what it has skipped, under "skipped"."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.memory: dict[str, Any] = {"skipped": 0}
        self.told: dict[str, float] = {}
        self._one = torch.ones((), device=device)

    def write(self, gradients: Gradients, at: At, /) -> bool:  # noqa: ARG002 - at any step
        """Return False where a gradient is not finite, for which this waits."""
        skipped = bool(unscale(gradients.values(), self._one))
        self.memory["skipped"] += skipped
        self.told = {"skipped": float(skipped)}
        return not skipped


def unscale(gradients: Iterable[Tensor], inverse: Tensor) -> Tensor:
    """Multiply gradients by `inverse`, a 0-dim tensor, in place; return whether one was not finite: 1.0, else 0.0."""
    bad = torch.zeros((), device=inverse.device)
    alike: dict[torch.dtype, list[Tensor]] = {}
    gradients = list(gradients)
    for gradient in own_parts(gradients):
        dense = gradient if gradient.layout == torch.strided else _values(gradient)
        dense = torch.view_as_real(dense) if dense.is_complex() else dense
        alike.setdefault(dense.dtype, []).append(dense)
    for some in alike.values():
        torch._amp_foreach_non_finite_check_and_unscale_(some, bad, inverse)  # pyright: ignore[reportPrivateImportUsage] # GradScaler's
    sharded = next((one for one in gradients if is_sharded(one)), None)
    return bad if sharded is None else over_parts(bad, sharded, "max")


def _values(gradient: Tensor) -> Tensor:
    """Return the elements that a sparse gradient has, each of them once or in parts: the sum of these is its own."""
    values: Tensor = gradient._values() if gradient.layout == torch.sparse_coo else gradient.values()
    return values


def skip_nonfinite() -> SkipNonfinite:
    """Return a rule that skips a batch of which a gradient is not finite: the rules after it leave the batch out.

    Nothing is written then: neither parameters nor what the optimizer remembers. The batch counts as a step all the
    same. It tells `skipped`, 1 where the batch was skipped, else 0, and counts those in its memory. Before `accumulate`
    it looks at each batch, after it at the mean of a window. What the forward pass wrote, as BatchNorm's statistics,
    stays written, and the loss is in the phase's mean. It waits for the device at each batch.
    """
    return SkipNonfinite()
