"""The rule that needs no decay of the learning rate: it trains between the last weights and their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, Gradients
from nntrain.update.schedules import Hyper, is_schedule
from nntrain.values.numbers import is_number
from nntrain.values.shards import own_parts


@dataclass(frozen=True)
class ScheduleFree:
    """What stands after the optimizer in what `schedule_free` returns; `lr` is the optimizer's."""

    name: ClassVar[str] = "schedule_free"
    in_eval: ClassVar[bool] = True
    momentum: float
    lr: Hyper

    def __post_init__(self) -> None:
        momentum = self.momentum
        if not (is_number(momentum) and 0 < momentum <= 1):
            raise ConfigError(
                f"schedule_free: momentum is {momentum!r:.80}; expected a number above 0 and 1 at most, like 0.9."
            )

    def __repr__(self) -> str:
        return f"schedule_free({self.momentum})"

    def rate_at(self, step: int) -> float:
        """Return the optimizer's rate at a step, by which the step weighs in the mean; 1 where it is no number."""
        rate: object = self.lr(step) if is_schedule(self.lr) else self.lr
        return float(rate) if is_number(rate) else 1.0

    def bind(self, params: dict[str, Tensor], /) -> BoundScheduleFree:
        """Return the rule over live parameters."""
        return BoundScheduleFree(params, self)


class BoundScheduleFree(Bound):
    """Keeps the mean under "weights", what the optimizer alone would have made under "last", by parameters' names.

    The parameters are between the two. `total` is the sum of the steps' weights, `highest` the highest rate so far.
    """

    def __init__(self, params: dict[str, Tensor], rule: ScheduleFree) -> None:
        super().__init__()
        self._params = {name: param.detach() for name, param in params.items()}
        self._rule = rule
        self._before: dict[str, Tensor] = {}
        """The parameters as the gradients saw them, while the optimizer writes."""
        begun = {kept: {name: param.clone() for name, param in self._params.items()} for kept in ("weights", "last")}
        self.memory: dict[str, Any] = {**begun, "total": 0.0, "highest": 0.0}

    def before(self, gradients: Gradients) -> None:
        """Note the parameters that the optimizer is to write."""
        self._before = {name: self._params[name].clone() for name in gradients}

    def write(self, gradients: Gradients, at: At, /) -> bool:  # noqa: ARG002 - it looks at the weights alone
        """Take the step that the optimizer has made from the parameters, and put these between its end and the mean."""
        memory, momentum, names = self.memory, self._rule.momentum, list(self._before)
        highest = max(memory["highest"], self._rule.rate_at(at.step))
        total = memory["total"] + highest**2
        share = highest**2 / total if total else 0.0
        memory.update(total=total, highest=highest)
        if not names:
            return True
        params, before = [self._params[name] for name in names], list(self._before.values())
        last, mean = ([memory[kept][name] for name in names] for kept in ("last", "weights"))
        self._before = {}
        steps = torch._foreach_sub(params, before)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        torch._foreach_lerp_(before, last, share)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        torch._foreach_add_(before, steps, alpha=1 - momentum * (1 - share))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        torch._foreach_copy_(own_parts(params), own_parts(before))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        torch._foreach_add_(last, steps)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        between = torch._foreach_lerp(params, last, 1 - 1 / momentum)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        torch._foreach_copy_(own_parts(mean), own_parts(between))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        return True
