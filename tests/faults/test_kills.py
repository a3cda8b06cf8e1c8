"""Runs killed by SIGKILL at random moments, also amid a save, go on and end with the bits of the run never killed.

`python -m tests.faults 200` does the same for 200 of them.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final

import pytest

from tests.faults.killing import Killer
from tests.log.warm import Warm

KILLS: Final = 40
BY_SIGKILL: Final = ("at a moment, by SIGKILL", "amid a save")


@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix", reason="processes are killed as on POSIX")
@pytest.mark.sweep
def test_runs_that_are_killed_end_as_the_one_that_is_not(tmp_path: Path, warm: Warm) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # which pytest shows if it fails
    killer = Killer(tmp_path, seed, warm)
    while sum(count for where, count in killer.tally.at.items() if where in BY_SIGKILL) < KILLS:
        killer.run()
    print(killer.tally)
    assert killer.tally.at["with a file begun"] >= 3
    assert min(killer.tally.at[where] for where in BY_SIGKILL) >= 5
