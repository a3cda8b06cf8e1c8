"""Learning rates and other hyperparameters that are functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeGuard

from nntrain.errors import ConfigError
from nntrain.values.calls import call_problem, class_of_calls, function_name
from nntrain.values.numbers import is_number

Schedule = Callable[[int], float]
Hyper = object
"""A hyperparameter: a value as the optimizer takes it, or a function of the step (0, 1, ...) that returns one."""
_NUMBERS = "a finite number, or a tuple of them"


def is_lr(lr: object) -> TypeGuard[float]:
    """Return whether `lr` can be a learning rate: a finite number of 0 or more."""
    return is_number(lr) and lr >= 0


def check_lr(lr: object) -> None:
    """Raise `ConfigError` for what is no learning rate, and no function of the step that returns one."""
    expected = "expected a finite number of 0 or more, or a function of the step"
    kind = class_of_calls(lr)
    if callable(getattr(kind or type(lr), "step", None)) and (kind is not None or not callable(lr)):
        raise ConfigError(
            f"lr is a {(kind or type(lr)).__name__}, which sets the rates of an optimizer that it is given, and the "
            f"learner makes one of its own; {expected}, like lr=lambda step: 0.1 * 0.99**step, or pass what makes it: "
            f"nntrain.schedules.from_torch(lambda optimizer: ..., lr=0.1)."
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


def is_schedule(value: Hyper) -> TypeGuard[Callable[[int], Any]]:
    """Return whether a hyperparameter is a function of the step."""
    return callable(value)


def first_of(name: str, value: Hyper) -> Any:
    """Return what an optimizer is made with. A rate that begins at 0 is 1: groups have rates in proportion to it."""
    if not is_schedule(value):
        return value
    first = value(0)
    check_scheduled(name, first, 0)
    if name == "lr":
        return float(first) or 1.0
    return tuple(first) if isinstance(first, list) else first


def check_scheduled(name: str, value: object, step: int) -> None:
    """Raise `ConfigError` for what a schedule must not return."""
    if name == "lr":
        if not is_lr(value):
            raise ConfigError(
                f"The lr schedule returned {value!r} at step {step}; expected a finite number of 0 or more."
            )
    elif not _is_numbers(value):
        raise ConfigError(f"The {name} schedule returned {value!r:.80} at step {step}; expected {_NUMBERS}.")


def _is_numbers(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_numbers, value))
    return is_number(value)


def check_hyperparameter(name: str, value: object) -> None:
    """Raise `ConfigError` for what is neither a value nor a function of the step that returns one."""
    if name == "lr":
        check_lr(value)
        return
    expected = f"expected a value, or a function of the step that returns {_NUMBERS}"
    kind = class_of_calls(value)
    if kind is not None:
        raise ConfigError(f"{name} is the class {kind.__name__}; {expected}.")
    if callable(value):
        problem = call_problem(value, 0)
        if problem is not None:
            raise ConfigError(f"{name} {function_name(value)} cannot be called with (step): {problem}; {expected}.")
        check_scheduled(name, value(0), 0)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; expected a finite number.")
