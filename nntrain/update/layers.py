"""Learning rates by depth: those of a fine-tuned model's layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from nntrain.errors import ConfigError
from nntrain.update.schedules import Hyper, Schedule, check_lr, is_schedule
from nntrain.values.calls import function_name
from nntrain.values.numbers import is_number


@dataclass(frozen=True)
class Times:
    """A schedule times a number."""

    schedule: Schedule
    factor: float

    def __call__(self, step: int) -> float:
        """Return the rate at a step."""
        return self.schedule(step) * self.factor

    def __repr__(self) -> str:
        return f"{function_name(self.schedule)} * {self.factor:g}"


def layerwise(layers: nn.Module | Sequence[str], lr: Hyper, decay: float) -> Mapping[str, Mapping[str, Hyper]]:
    """Return `groups` for `optimizer`: the last layer learns with `lr`, and each one before it with `decay` times less.

    `optimizer(torch.optim.AdamW, lr=1e-3, groups=layerwise(model, 1e-3, 0.8))`.

    Args:
        layers: patterns of the parameters' names, from the layer of the inputs to that of the outputs:
            `["embed.*", "blocks.0.*", "blocks.1.*", "head.*"]`. Or a module, whose children with parameters are its
            layers in the order in which it has them; of a `Sequential` or `ModuleList` each child is one.
        lr: a rate, or a function of the step that returns one.
        decay: of two layers that follow each other, the first one's rate by the second one's: above 0, and 1 at most.

    A parameter that is in no layer has the optimizer's own `lr`. Raises `ConfigError` for what cannot be meant, and for
    a module without children that have parameters.
    """
    check_lr(lr)
    if not (is_number(decay) and 0 < decay <= 1):
        raise ConfigError(f"layerwise: decay is {decay!r:.80}; expected a number above 0 and 1 at most, like 0.8.")
    patterns = [f"{name}.*" for name in _layers(layers)] if isinstance(layers, nn.Module) else layers
    if isinstance(patterns, str) or not isinstance(patterns, Sequence) or not all(isinstance(x, str) for x in patterns):
        raise ConfigError(f"layerwise: layers is {layers!r:.80}; expected a module, or a list of patterns of names.")
    if not patterns or len({*patterns}) < len(patterns):
        said = f"{list(patterns)}, some twice" if patterns else f"{type(layers).__name__}, without any"
        raise ConfigError(f"layerwise: layers is {said:.120}; expected patterns of names, each once.")
    deepest = len(patterns) - 1
    return {
        pattern: {"lr": _times(lr, math.prod([decay] * (deepest - depth)))} for depth, pattern in enumerate(patterns)
    }


def _times(lr: Hyper, factor: float) -> Hyper:
    if factor == 1:
        return lr
    return Times(lr, factor) if is_schedule(lr) else lr * factor  # type: ignore[operator] # `check_lr` has seen a number


def _layers(module: nn.Module, before: str = "") -> Iterator[str]:
    """Yield the names of a module's layers."""
    for name, child in module.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from _layers(child, f"{before}{name}.")
        elif next(child.parameters(), None) is not None:
            yield f"{before}{name}"
