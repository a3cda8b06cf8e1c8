"""Rules that average the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, Gradients
from nntrain.values.numbers import is_count, is_number


@dataclass(frozen=True)
class Ema:
    """What `ema` returns."""

    name: ClassVar[str] = "ema"
    decay: float
    in_eval: bool = False

    def __post_init__(self) -> None:
        decay = self.decay
        if not (is_number(decay) and 0 <= decay <= 1):
            raise ConfigError(f"ema takes the decay, a number from 0 to 1, like 0.999; got {decay!r:.80}.")

    def __repr__(self) -> str:
        return f"ema({self.decay}{_said(self.in_eval)})"

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


def ema(decay: float, *, in_eval: bool = False) -> Ema:
    """Return a rule that keeps an exponential moving average of the parameters, updated after each step.

    `state.to_module(weights="ema")` returns a module with it. The average begins as the parameters after the first
    step, and is then `decay` times itself plus (1 - `decay`) times the parameters: the bits of torch's `AveragedModel`
    with `get_ema_multi_avg_fn(decay)`. Buffers are not averaged; such a module has the state's own. Stands after the
    optimizer. With `in_eval` the learner's eval phases, `evaluate` and `predict` have the average in the place of the
    parameters. Raises `ConfigError` for a decay that is no number from 0 to 1.
    """
    return Ema(decay, in_eval)


def _said(in_eval: bool) -> str:
    return ", in_eval=True" if in_eval else ""


@dataclass(frozen=True)
class Swa:
    """What `swa` returns."""

    name: ClassVar[str] = "swa"
    start: int
    every: int
    in_eval: bool = False

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("every", self.every)):
            if not is_count(value, 1):
                raise ConfigError(f"swa: {name} is {value!r:.80}; expected a whole number of steps from 1.")

    def __repr__(self) -> str:
        return f"swa(start={self.start}, every={self.every}{_said(self.in_eval)})"

    def bind(self, params: dict[str, Tensor], /) -> BoundSwa:
        """Return the rule over live parameters."""
        return BoundSwa(params, self)


class BoundSwa(Bound):
    """Keeps the mean under "weights", by the parameters' names, and of how many weights it is, under "averaged"."""

    def __init__(self, params: dict[str, Tensor], rule: Swa) -> None:
        super().__init__()
        self.memory: dict[str, Any] = {"weights": {}, "averaged": 0}
        self._params = {name: param.detach() for name, param in params.items()}
        self._rule = rule

    def write(self, gradients: Gradients, at: At, /) -> bool:  # noqa: ARG002 - it looks at the weights alone
        """Take the weights into the mean, at those steps that are to be in it."""
        since = at.step + 1 - self._rule.start
        if since < 0 or since % self._rule.every:
            return True
        mean: dict[str, Tensor] = self.memory["weights"]
        averaged: int = self.memory["averaged"]
        if mean:
            _take_in(list(mean.values()), [self._params[name] for name in mean], averaged + 1)
        else:
            self.memory["weights"] = {name: param.clone() for name, param in self._params.items()}
        self.memory["averaged"] = averaged + 1
        return True


def _take_in(mean: list[Tensor], weights: list[Tensor], count: int) -> None:
    """Take weights into a mean, which is of `count` then, by the operations that `AveragedModel` has on the device."""
    if mean[0].device.type == "cpu":
        differences = torch._foreach_sub(weights, mean)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        torch._foreach_div_(differences, count)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        torch._foreach_add_(mean, differences)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
    else:
        torch._foreach_lerp_(mean, weights, 1 / count)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones


def swa(*, start: int = 1, every: int = 1, in_eval: bool = False) -> Swa:
    """Return a rule that keeps the plain mean of the weights of some steps: stochastic weight averaging.

    These are the weights that the state has at step `start` (`progress.step`; 1 is after the first step), and at each
    `every`-th after that; steps that write nothing are left out. The bits are those of torch's `AveragedModel`. Before
    `start` there is no mean, and who asks for it gets a `ConfigError`. `state.with_averages("swa")` returns a state
    with it, of which `update_bn` takes BatchNorm's statistics anew. With `in_eval` the learner's eval phases,
    `evaluate` and `predict` have the mean in the place of the parameters, once there is one. Stands after the
    optimizer. Raises `ConfigError` for what are no whole numbers from 1. Izmailov et al., Averaging Weights Leads to
    Wider Optima (2018).
    """
    return Swa(start, every, in_eval)
