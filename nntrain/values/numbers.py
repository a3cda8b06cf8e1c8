"""What counts as a number among arguments."""

from __future__ import annotations

import math
from typing import TypeGuard


def is_number(given: object) -> TypeGuard[float]:
    """Return whether a thing is a finite number; a bool is none."""
    return isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
