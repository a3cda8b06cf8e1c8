"""Comparing two checkpoints, without a learner."""

from __future__ import annotations

import os

from nntrain.checkpoint.loading import opened, read
from nntrain.values.differences import Difference, difference


def diff(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Difference:
    """Tell how the states of two checkpoints differ: each tensor by its bits, and each value.

    What only the clock said is left out, and so is when and by which versions they were saved. `state.diff(other)` is
    the same for states. All of both is read and checked first. Raises `CheckpointError`.
    """
    with opened(first) as one, opened(second) as other:
        return difference(read(one), read(other))
