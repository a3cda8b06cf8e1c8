"""Cases of which the README's test command takes a few, and the sweep the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pytest
from hypothesis import settings

TRIES: Final = settings.default.max_examples if settings.default else 50
"""How many examples a property has: ten times as many with --hypothesis-profile=sweep."""


def one_in(count: int, cases: Iterable[Any]) -> list[Any]:
    """Return the cases for `parametrize`, the first of each `count` as it is and the others marked `sweep`."""
    return [case if i % count == 0 else pytest.param(case, marks=pytest.mark.sweep) for i, case in enumerate(cases)]
