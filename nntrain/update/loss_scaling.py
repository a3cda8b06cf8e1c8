"""The rule that scales the loss, so that gradients in float16 do not vanish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, Gradients
from nntrain.update.skipping import unscale
from nntrain.values.numbers import is_number


@dataclass(frozen=True)
class LossScale:
    """What `loss_scale` returns."""

    name: ClassVar[str] = "loss_scale"
    first: float
    growth: float
    backoff: float
    interval: int

    def __post_init__(self) -> None:
        numbers = {"first": self.first, "growth": self.growth, "backoff": self.backoff, "interval": self.interval}
        for name, value in numbers.items():
            if not (is_number(value) and value > 0):
                raise ConfigError(f"loss_scale: {name} is {value!r:.80}; expected a finite number above 0.")
        if self.growth < 1 or self.backoff > 1 or self.interval != int(self.interval):
            raise ConfigError(
                f"loss_scale: growth is {self.growth}, backoff {self.backoff}, interval {self.interval}; expected 1 or "
                f"more, 1 or less, and a whole number of steps."
            )

    def __repr__(self) -> str:
        return f"loss_scale({self.first:g})"

    def bind(self, params: dict[str, Tensor], /) -> BoundLossScale:
        """Return the rule over live parameters. Raises `ConfigError` for parameters in float16."""
        halves = [name for name, param in params.items() if param.dtype == torch.float16]
        if halves:
            raise ConfigError(
                f"{self!r} takes the scale out of the gradients again, which float16 has no room for: "
                f"{', '.join(halves):.200}. Keep the parameters in float32, and compute in Engine(precision='fp16')."
            )
        return BoundLossScale(self, next(iter(params.values())).device)


class BoundLossScale(Bound):
    """Holds the `scale`, and for how many steps in a row all was finite (`good`)."""

    def __init__(self, rule: LossScale, device: torch.device) -> None:
        super().__init__()
        self._rule = rule
        self.memory: dict[str, Any] = {
            "scale": torch.full((), float(rule.first), device=device),
            "good": torch.zeros((), dtype=torch.int32, device=device),
        }
        self.told: Mapping[str, Tensor | float] = {}

    def loss(self, loss: Tensor, /) -> Tensor:
        """Return the loss times the scale."""
        scale: Tensor = self.memory["scale"]
        return loss * scale

    def write(self, gradients: Gradients, at: At, /) -> bool:  # noqa: ARG002 - at any step
        """Take the scale out of the gradients. Return False where one is not finite, for which this waits."""
        scale, rule = self.memory["scale"], self._rule
        inverse = scale.double().reciprocal().float()
        bad = unscale(gradients.values(), inverse)
        after, good = scale.clone(), self.memory["good"].clone()  # a state may be put back, with the ones before
        torch._amp_update_scale_(after, good, bad, rule.growth, rule.backoff, int(rule.interval))  # pyright: ignore[reportPrivateImportUsage] # GradScaler's
        self.memory.update(scale=after, good=good)
        skipped = bool(bad)
        self.told = {"loss_scale": scale, "skipped": float(skipped)}
        return not skipped


def loss_scale(first: float = 65536.0, *, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000) -> LossScale:
    """Return a rule that scales the loss before the backward pass, and takes the scale out of the gradients.

    It is what `torch.amp.GradScaler` does, bit for bit, with the scale in the state. A batch of which a gradient is not
    finite writes nothing: the rules after it leave it out, though it counts as a step, and the scale becomes `backoff`
    times itself. After `interval` batches in a row without one it becomes `growth` times itself. It tells `loss_scale`,
    and `skipped`: 1 where nothing was written, else 0. The loss that is told is the task's own. It stands first in a
    chain; `Engine(precision="fp16")` puts it there. Raises `ConfigError` for numbers that cannot be meant.
    """
    return LossScale(first, growth, backoff, interval)
