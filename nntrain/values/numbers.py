"""What counts as a number among arguments."""

from __future__ import annotations

import sys
from typing import TypeGuard


def is_number(given: object) -> TypeGuard[float]:
    """Return whether a thing is a finite number; a bool is none, nor is an int that no float can hold."""
    return isinstance(given, (int, float)) and not isinstance(given, bool) and abs(given) <= sys.float_info.max


def is_count(given: object, least: int) -> TypeGuard[int]:
    """Return whether a thing is a whole number of `least` or more; a bool is none."""
    return isinstance(given, int) and not isinstance(given, bool) and given >= least
