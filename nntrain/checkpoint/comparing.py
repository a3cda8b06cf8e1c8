"""Comparing two checkpoints, without a learner."""

from __future__ import annotations

import os

from nntrain.checkpoint.loading import open_checkpoint, read
from nntrain.values.differences import Difference, difference


def diff(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Difference:
    """Return how the states of two checkpoints differ: in which tensors, by their bits, and in which values.

    Times are left out, and so are the versions that saved them. `state.diff(other)` does the same for states. Both
    files are read and checked in full first. Raises `CheckpointError`.
    """
    with open_checkpoint(first) as one, open_checkpoint(second) as other:
        return difference(read(one), read(other))
