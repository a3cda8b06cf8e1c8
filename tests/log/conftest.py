"""What the tests of the log share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.log.warm import Warm


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that has imported nntrain, to start others from."""
    made = Warm()
    yield made
    made.end()
