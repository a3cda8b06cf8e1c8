"""The rule that averages the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, Gradients


@dataclass(frozen=True)
class Ema:
    """What `ema` returns."""

    name: ClassVar[str] = "ema"
    decay: float

    def __post_init__(self) -> None:
        decay = self.decay
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay <= 1:
            raise ConfigError(f"ema takes the decay, a number from 0 to 1, like 0.999; got {decay!r:.80}.")

    def __repr__(self) -> str:
        return f"ema({self.decay})"

    def bind(self, params: dict[str, Tensor], /) -> BoundEma:
        """Return the rule over live parameters."""
        return BoundEma(params, 1 - self.decay)


class BoundEma(Bound):
    """Keeps the average under "weights", by the parameters' names; none before the first step."""

    def __init__(self, params: dict[str, Tensor], share: float) -> None:
        super().__init__()
        self.memory: dict[str, Any] = {"weights": {}}
        self._params = {name: param.detach() for name, param in params.items()}
        self._share = share

    def write(self, gradients: Gradients, at: At, /) -> bool:  # noqa: ARG002 - it looks at the weights alone
        """Bring the average nearer to the weights; the first is the weights themselves."""
        average: dict[str, Tensor] = self.memory["weights"]
        if average:
            weights = [self._params[name] for name in average]
            torch._foreach_lerp_(list(average.values()), weights, self._share)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        else:
            self.memory["weights"] = {name: param.clone() for name, param in self._params.items()}
        return True


def ema(decay: float) -> Ema:
    """Return a rule that keeps an exponential moving average of the parameters, updated after each step.

    `state.to_module(weights="ema")` returns a module with it. The average begins as the parameters after the first
    step, and is then `decay` times itself plus (1 - `decay`) times the parameters: the bits of torch's `AveragedModel`
    with `get_ema_multi_avg_fn(decay)`. Buffers are not averaged; such a module has the state's own. Stands after the
    optimizer. Raises `ConfigError` for a decay that is no number from 0 to 1.
    """
    return Ema(decay)
