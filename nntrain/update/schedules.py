"""Learning rates that are functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard

Schedule = Callable[[int], float]


def is_lr(lr: object) -> TypeGuard[float]:
    """Return whether `lr` can be a learning rate: a finite number of 0 or more."""
    return isinstance(lr, (int, float)) and not isinstance(lr, bool) and math.isfinite(lr) and lr >= 0
