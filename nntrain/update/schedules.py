"""Learning rates that are functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard

from nntrain.errors import ConfigError
from nntrain.values.calls import call_problem, class_of_calls, function_name

Schedule = Callable[[int], float]


def is_lr(lr: object) -> TypeGuard[float]:
    """Return whether `lr` can be a learning rate: a finite number of 0 or more."""
    return isinstance(lr, (int, float)) and not isinstance(lr, bool) and math.isfinite(lr) and lr >= 0


def check_lr(lr: object) -> None:
    """Raise `ConfigError` for what is no learning rate, and no function of the step that returns one."""
    expected = "expected a finite number of 0 or more, or a function of the step"
    kind = class_of_calls(lr)
    if callable(getattr(kind or type(lr), "step", None)) and (kind is not None or not callable(lr)):
        raise ConfigError(
            f"lr is a {(kind or type(lr)).__name__}, which sets the rates of an optimizer that it is given, and the "
            f"learner makes one of its own; {expected}, like lr=lambda step: 0.1 * 0.99**step."
        )
    if kind is not None:
        raise ConfigError(f"lr is the class {kind.__name__}; {expected}.")
    where = "lr"
    if callable(lr):
        problem = call_problem(lr, 0)
        if problem is not None:
            raise ConfigError(f"lr {function_name(lr)} cannot be called with (step): {problem}; {expected}.")
        lr, where = lr(0), "lr(0)"
    if not is_lr(lr):
        number = " Make it a Python number by float(...)." if hasattr(lr, "item") else ""
        raise ConfigError(f"{where} is {lr!r:.80}; {expected}.{number}")
