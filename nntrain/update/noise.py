"""The rule that adds noise to the gradients."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, Gradients
from nntrain.update.schedules import Hyper, check_hyperparameter, check_scheduled, is_schedule
from nntrain.values.calls import function_name
from nntrain.values.numbers import is_number
from nntrain.values.shards import laid_out_as, own_part

_OWN: Final = 0x6E6F697365
"""Makes the noise another than what the model draws from the same bits."""


@dataclass(frozen=True)
class GradientNoise:
    """What `gradient_noise` returns."""

    name: ClassVar[str] = "gradient_noise"
    std: Hyper

    def __post_init__(self) -> None:
        check_hyperparameter("std", self.std)
        first = self.std(0) if is_schedule(self.std) else self.std
        _check("gradient_noise: std", first)

    def __repr__(self) -> str:
        return f"gradient_noise({function_name(self.std) if is_schedule(self.std) else self.std})"

    def bind(self, params: dict[str, Tensor], /) -> BoundGradientNoise:
        """Return the rule over live parameters."""
        return BoundGradientNoise(params, self.std)


class BoundGradientNoise(Bound):
    """Draws from a generator of its own, which each write seeds."""

    def __init__(self, params: dict[str, Tensor], std: Hyper) -> None:
        super().__init__()
        self._std = std
        self._source = torch.Generator(next(iter(params.values())).device)
        self._own = zlib.crc32(",".join(params).encode()) ^ _OWN

    def write(self, gradients: Gradients, at: At, /) -> bool:
        """Add noise to each gradient, in the order of the parameters."""
        std = self._std(at.step) if is_schedule(self._std) else self._std
        if is_schedule(self._std):
            check_scheduled("std", std, at.step)
        deviation = _check(f"gradient_noise: std at step {at.step}", std)
        if deviation:
            self._source.manual_seed(at.bits ^ self._own)
            for gradient in gradients.values():
                shape, dtype, device = gradient.shape, gradient.dtype, gradient.device
                noise = torch.randn(shape, generator=self._source, dtype=dtype, device=device)
                own_part(gradient).add_(own_part(laid_out_as(noise, gradient)), alpha=deviation)
        return True


def _check(what: str, std: object) -> float:
    if not (is_number(std) and std >= 0):
        raise ConfigError(f"{what} is {std!r:.80}; expected a finite number of 0 or more, or a function of the step.")
    return std


def gradient_noise(std: Hyper) -> GradientNoise:
    """Return a rule that adds normal noise of deviation `std`, a number or a function of the step, to the gradients.

    The noise is a function of the state's key and the batch: the same after resuming, and whatever else is drawn. After
    `accumulate` it is drawn once a step. Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep
    Networks (2015), takes `lambda step: (eta / (1 + step) ** 0.55) ** 0.5`. Raises `ConfigError` for what is no number
    of 0 or more.
    """
    return GradientNoise(std)
