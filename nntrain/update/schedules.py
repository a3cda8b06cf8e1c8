"""Learning rates that are functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard

from nntrain.errors import ConfigError

Schedule = Callable[[int], float]


def is_lr(lr: object) -> TypeGuard[float]:
    """Return whether `lr` can be a learning rate: a finite number of 0 or more."""
    return isinstance(lr, (int, float)) and not isinstance(lr, bool) and math.isfinite(lr) and lr >= 0


def check_lr(lr: object) -> None:
    """Raise `ConfigError` for what is no learning rate, and no function of the step that returns one."""
    if callable(lr):
        lr = lr(0)
        where = "lr(0)"
    else:
        where = "lr"
    if not is_lr(lr):
        raise ConfigError(f"{where} is {lr!r}; expected a finite number of 0 or more, or a function of the step.")
