"""The pytest plugin: fixtures for testing extensions. pytest loads it wherever nntrain is installed.

It imports nothing of nntrain, and so no torch, before a test asks for a fixture.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from nntrain.machine.learner import Learner
    from nntrain.values.state import TrainState


@pytest.fixture
def nntrain_learner() -> Learner[tuple[Tensor, Tensor]]:
    """A learner that trains in milliseconds: an MLP on (inputs [B, 4], classes [B]) of three classes.

    The same each time; `nntrain_learner.replace(subs=[...], sinks=[...])` adds what is to be tested.
    """
    from nntrain.testing import Plan, small_learner

    return small_learner(Plan(epochs=2, train=(3, 3, 2), valid=(3, 2)))


@pytest.fixture
def nntrain_states(nntrain_learner: Learner[tuple[Tensor, Tensor]]) -> tuple[TrainState, ...]:
    """The states of a run of two epochs, from the fresh one to the finished one, at every place of the machine."""
    from nntrain.machine.steps import advance

    states = [nntrain_learner.init(epochs=2)]
    while states[-1].progress.at != "finished":
        states.append(advance(nntrain_learner, states[-1]).state)
    return tuple(states)


@pytest.fixture
def nntrain_log(nntrain_learner: Learner[tuple[Tensor, Tensor]], tmp_path: Path) -> Path:
    """The event log of a run of two epochs, with each batch, for `dry_run` or a reader of logs."""
    from nntrain.log import JsonLog

    path = tmp_path / "nntrain.jsonl"
    with JsonLog(path, every=1) as log:
        nntrain_learner.replace(sinks=[log]).fit(2, print_stats=False)
    return path
