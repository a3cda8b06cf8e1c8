"""Several rules as one: `chain`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.accumulating import Accumulate
from nntrain.update.averaging import Ema, Swa
from nntrain.update.clipping import ClipNorm, ClipValue
from nntrain.update.freezing import Freeze
from nntrain.update.live_update import Live, LiveUpdate
from nntrain.update.loss_scaling import LossScale, loss_scale
from nntrain.update.noise import GradientNoise
from nntrain.update.norms import GradientNorms
from nntrain.update.rule import UpdateRule
from nntrain.update.schedule_free import ScheduleFree
from nntrain.update.sharpness import Sam
from nntrain.update.skipping import SkipNonfinite
from nntrain.update.torch_optimizer import Compiled
from nntrain.update.torch_rule import OptimizerRule
from nntrain.values.calls import class_of_calls, function_name

_OF_GRADIENTS: Final = (Accumulate, ClipNorm, ClipValue, Freeze, GradientNoise, GradientNorms, Sam, SkipNonfinite)
"""Rules that have no use after the optimizer."""


@dataclass(frozen=True)
class Chain:
    """What `chain` returns."""

    rules: tuple[UpdateRule, ...]

    def __post_init__(self) -> None:
        rules: list[UpdateRule] = []
        for rule in self.rules:
            check_rule(rule)
            rules += _rules_of(rule)
        object.__setattr__(self, "rules", tuple(rules))
        optimizers = [index for index, rule in enumerate(rules) if isinstance(rule, OptimizerRule)]
        if not optimizers:
            raise ConfigError(
                f"A chain has an optimizer, like chain(clip_norm(1.0), optimizer(torch.optim.AdamW, lr=1e-3)); got "
                f"none in {self!r}."
            )
        first, last = optimizers[0], optimizers[-1]
        between = [rule for rule in rules[first:last] if not isinstance(rule, OptimizerRule)]
        if between:
            raise ConfigError(
                f"{between[0]!r} stands between two optimizers of {self!r}: put it before the first, or after the last."
            )
        seen = [rule for rule in rules if getattr(rule, "in_eval", False)]
        if len(seen) > 1:
            raise ConfigError(f"Eval has the average of one rule; got {', '.join(map(repr, seen))}.")
        windows = [rule for rule in rules if isinstance(rule, Accumulate)]
        if len(windows) > 1:
            raise ConfigError(f"A chain has one accumulate at most; got {', '.join(map(repr, windows))}.")
        noise = [rule for rule in rules if isinstance(rule, GradientNoise)]
        if len(noise) > 1:
            raise ConfigError(f"A chain has one gradient_noise at most; got {', '.join(map(repr, noise))}.")
        self._check_twice_evaluated()
        for index, rule in enumerate(rules):
            if index and isinstance(rule, LossScale):
                raise ConfigError(
                    f"{rule!r} stands after {rules[0]!r}, which would see scaled gradients: put it first."
                )
            if index > first and isinstance(rule, _OF_GRADIENTS):
                raise ConfigError(f"{rule!r} stands after the optimizer, which has used the gradients: put it before.")
            if index < first and isinstance(rule, (Ema, Swa, ScheduleFree)):
                raise ConfigError(f"{rule!r} stands before the optimizer, which is to write first: put it after.")

    def _check_twice_evaluated(self) -> None:
        """Raise `ConfigError` for what has no place beside a rule that evaluates each batch a second time."""
        found = [index for index, rule in enumerate(self.rules) if isinstance(rule, Sam)]
        if not found:
            return
        first = self.rules[found[0]]
        if len(found) > 1:
            raise ConfigError(f"A chain has one sam at most; got {', '.join(repr(self.rules[at]) for at in found)}.")
        for rule in self.rules:
            if isinstance(rule, LossScale):
                raise ConfigError(
                    f"{first!r} takes the gradients of a second pass, which {rule!r} would leave scaled. Compute in "
                    f"Engine(precision='bf16'), which needs no scale."
                )
        for rule in self.rules[: found[0]]:
            if isinstance(rule, (Accumulate, ClipNorm, ClipValue, GradientNoise)):
                raise ConfigError(
                    f"{rule!r} stands before {first!r}, which takes other gradients, those of a second pass over the "
                    f"batch: put it after."
                )

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.rules))})"

    def bind(self, params: dict[str, Tensor], /) -> LiveUpdate:
        """Return the chain over live parameters."""
        return LiveUpdate(self.rules, params, None)


def chain(*rules: UpdateRule) -> Chain:
    """Return the rule that applies `rules` in order, up to the first that has the others wait.

    One of them is an `optimizer`; or several, side by side, each over parameters of its own. A chain within a chain is
    its rules. Raises `ConfigError` for what is no rule, for a chain without an optimizer, and for a rule on the wrong
    side of it.
    """
    return Chain(rules)


def schedule_free(rule: UpdateRule, *, momentum: float = 0.9) -> Chain:
    """Return a rule with the optimizer made schedule-free: no decay of the rate, and eval with the mean of the weights.

    The parameters that are trained are between what the optimizer's steps alone would lead to and the mean of that,
    `momentum` of the way to the mean. The learner's eval phases, `evaluate` and `predict` have the mean in their place,
    `state.to_module(weights="schedule_free")` returns it. Each step weighs in it by the square of the highest rate so
    far, so that a warm-up counts less. Momentum is this rule's: take an optimizer without, `SGD` or
    `AdamW(betas=(0.0, 0.999))`, and a constant rate, perhaps after a warm-up.

    Args:
        rule: an `optimizer`, or a chain with one.
        momentum: above 0, and 1 at most.

    Raises `ConfigError` for what cannot be meant. Defazio et al., The Road Less Scheduled (2024).
    """
    lr = optimizer_of(rule).hyperparameters.get("lr")
    return Chain((rule, ScheduleFree(momentum, lr)))


def check_rule(rule: object) -> None:
    """Raise `ConfigError` for what is no update rule."""
    kind = class_of_calls(rule)
    expected = "expected an update rule, like optimizer(torch.optim.AdamW, lr=1e-3)"
    if kind is not None or isinstance(rule, torch.optim.Optimizer):
        made = kind or type(rule)
        given = f"the class {made.__name__}" if kind is not None else f"an optimizer made already, {made.__name__}"
        meant = f"optimizer({made.__name__}, lr=...)" if issubclass(made, torch.optim.Optimizer) else "an instance"
        raise ConfigError(f"Got {given}; {expected}. Pass {meant}.")
    if not callable(getattr(rule, "bind", None)):
        wanted = f" Call it first: {function_name(rule)}(...)." if callable(rule) else ""
        raise ConfigError(f"Got {rule!r:.80}; {expected}.{wanted}")


def _rules_of(rule: UpdateRule) -> tuple[UpdateRule, ...]:
    """Return the rules of a chain; of any other rule, that one."""
    return rule.rules if isinstance(rule, Chain) else (rule,)


def optimizer_of(rule: UpdateRule) -> OptimizerRule:
    """Return the optimizer of a rule, of several the first. Raises `ConfigError` for what is no rule, or has none."""
    check_rule(rule)
    rules = (rule if isinstance(rule, Chain) else Chain((rule,))).rules
    return next(one for one in rules if isinstance(one, OptimizerRule))


def left_still(rule: UpdateRule) -> list[str]:
    """Return what to warn of in a rule's optimizers: hyperparameters that stay where a loop's scheduler moves them."""
    told = (one.left_still() for one in _rules_of(rule) if isinstance(one, OptimizerRule))
    return [text for text in told if text is not None]


def scaling_loss(rule: UpdateRule) -> UpdateRule:
    """Return a rule that scales the loss, with the default scale where it does not say another."""
    return rule if any(isinstance(one, LossScale) for one in _rules_of(rule)) else Chain((loss_scale(), rule))


def with_optimizers(rule: UpdateRule, change: Callable[[OptimizerRule], OptimizerRule]) -> UpdateRule:
    """Return a rule with each of its optimizers as `change` returns it."""
    if isinstance(rule, OptimizerRule):
        return change(rule)
    return Chain(tuple(with_optimizers(one, change) for one in rule.rules)) if isinstance(rule, Chain) else rule


def live_update(rule: UpdateRule, params: Mapping[str, Tensor], compiled: Compiled | None) -> Live:
    """Return what a workspace writes with: for an optimizer alone, that and nothing around it."""
    check_rule(rule)
    whole = rule if isinstance(rule, Chain) else Chain((rule,))
    first = whole.rules[0]
    if len(whole.rules) == 1 and isinstance(first, OptimizerRule):
        return first.live(params, compiled)
    return LiveUpdate(whole.rules, params, compiled)
