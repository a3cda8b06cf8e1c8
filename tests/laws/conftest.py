"""The laws hold of recordings too: setups may ask for `capture`."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def recordings(tapes: None) -> None:
    """Let the CPU have a recorder."""
