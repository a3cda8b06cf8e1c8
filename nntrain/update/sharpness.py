"""The rule that looks for flat minima: the gradients are those of a second pass, where the loss is higher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.clipping import total_norm
from nntrain.update.rule import At, Bound, Gradients
from nntrain.values.numbers import is_number
from nntrain.values.shards import own_parts


@dataclass(frozen=True)
class Sam:
    """What `sam` returns."""

    name: ClassVar[str] = "sam"
    rho: float
    adaptive: bool = False

    def __post_init__(self) -> None:
        rho = self.rho
        if not (is_number(rho) and rho > 0):
            raise ConfigError(f"sam takes rho, how far it goes, a finite number above 0, like 0.05; got {rho!r:.80}.")

    def __repr__(self) -> str:
        return f"sam({self.rho}{', adaptive=True' if self.adaptive else ''})"

    def bind(self, params: dict[str, Tensor], /) -> BoundSam:
        """Return the rule over live parameters."""
        return BoundSam(params, self)


class BoundSam(Bound):
    """Goes up the gradients, evaluates the batch again, and comes back to the very bits of the weights."""

    evaluates: Final = True

    def __init__(self, params: dict[str, Tensor], rule: Sam) -> None:
        super().__init__()
        self._params = {name: param.detach() for name, param in params.items()}
        self._rule = rule

    def write(self, gradients: Gradients, at: At, /) -> bool:
        """Put the second pass's gradients in the place of the first one's. Raises `ConfigError` where there is none."""
        if at.again is None:
            raise ConfigError(f"{self._rule!r} evaluates each batch a second time, which only a learner's step does.")
        names, found = list(gradients), list(gradients.values())
        if not found:
            return True
        params = [self._params[name] for name in names]
        before = torch._foreach_mul(params, 1.0)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        try:
            torch._foreach_add_(params, self._up(params, found))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
            again = at.again()
        finally:
            torch._foreach_copy_(own_parts(params), own_parts(before))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        gradients.clear()
        gradients.update({name: again[name] for name in names if name in again})
        return True

    def _up(self, params: list[Tensor], found: list[Tensor]) -> list[Tensor]:
        """Return how far each parameter goes: along its gradient, so that all together go `rho`."""
        if not self._rule.adaptive:
            return list(torch._foreach_mul(found, self._rule.rho / (total_norm(found) + 1e-12)))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        sizes = torch._foreach_abs(params)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        scale = self._rule.rho / (total_norm(list(torch._foreach_mul(sizes, found))) + 1e-12)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        squares = torch._foreach_pow(params, 2)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        return list(torch._foreach_mul(torch._foreach_mul(squares, found), scale))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones


def sam(rho: float = 0.05, *, adaptive: bool = False) -> Sam:
    """Return the rule of sharpness-aware minimisation: each batch is passed twice, and the second gradients are used.

    The second pass is made with the weights `rho` further along the gradients of the first one, where the loss is
    higher; the weights then come back, to the bit, and the rules after it and the optimizer get its gradients. With
    `adaptive` each weight goes as far as it is large: Kwon et al., ASAM (2021), which takes a `rho` about ten times as
    large. Loss, predictions and metrics are those of the first pass, and so is what a forward pass writes, as
    BatchNorm's statistics. Stands before the rules that change gradients; what stands before it (`freeze`,
    `skip_nonfinite`) sees the first gradients. Raises `ConfigError` for what is no number above 0. Foret et al.,
    Sharpness-Aware Minimization for Efficiently Improving Generalization (2021).
    """
    return Sam(rho, adaptive)
