"""Cases of which the README's test command takes a few, and the sweep the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(count: int, cases: Iterable[Any]) -> list[Any]:
    """Return the cases for `parametrize`, the first of each `count` as it is and the others marked `sweep`."""
    return [case if i % count == 0 else pytest.param(case, marks=pytest.mark.sweep) for i, case in enumerate(cases)]
