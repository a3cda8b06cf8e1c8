"""`TimeLimit` stops a fit by the seconds that its state has counted, in one process or in several."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from nntrain import Cancelled, Completed, DataLoaders, Learner, TimeLimit, advance, fit_step
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError
from nntrain.testing import check_subscriber

SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 3, generator=SOURCE), torch.randn(4, 1, generator=SOURCE)) for _ in range(5)]

MODEL = nn.Linear(3, 1)


def learner_of(*subs: TimeLimit) -> Learner[Any]:
    return Learner(MODEL, DataLoaders(DATA, DATA[:2]), mse_loss, {}, torch.optim.SGD, 0.1, subs=subs)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is a second later at each look.

    It is looked at when a batch begins, when it is shown, and when it is written: a batch takes two seconds.
    """
    seconds = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))


@pytest.mark.usefixtures("clock")
def test_it_stops_at_the_batch_with_which_its_time_is_over() -> None:
    outcome = learner_of(TimeLimit(5)).fit(3, print_stats=False)
    # When the third batch is shown, one second of its own and four of the others lie behind.
    assert isinstance(outcome, Cancelled)
    assert (outcome.state.progress.step, outcome.by, outcome.event) == (3, "TimeLimit", "after_batch")
    assert outcome.verdict.reason == "the fit has taken 5.0 s of the 5 s that it may"


@pytest.mark.usefixtures("clock")
def test_it_counts_finished_phases_and_eval_and_a_next_fit_has_its_own_time() -> None:
    learner = learner_of(TimeLimit(16))
    outcome = learner.fit(1, print_stats=False)
    assert isinstance(outcome, Completed)
    assert [stats.seconds for stats in outcome.state.history] == [10, 4]
    outcome = fit_step(learner, outcome.state, 1)
    assert isinstance(outcome, Completed)
    outcome = fit_step(learner, outcome.state, 2)
    assert isinstance(outcome, Cancelled)
    place = outcome.state.progress
    assert (place.epoch, place.phase, place.batch) == (3, "train", 2)  # 10 + 4 + 2 + 1 seconds


@pytest.mark.usefixtures("clock")
def test_what_was_before_an_interruption_counts(tmp_path: Path) -> None:
    straight = learner_of(TimeLimit(11)).fit(3, print_stats=False)
    for steps in range(2, 5):
        learner = learner_of(TimeLimit(11))
        state = learner.init(epochs=3)
        while state.progress.step < steps:
            state = advance(learner, state).state
        save(state, tmp_path / "amid")
        again = learner_of(TimeLimit(11))
        outcome = fit_step(again, load(tmp_path / "amid", again))
        assert isinstance(outcome, Cancelled)
        # The write of the batch before the interruption, a second, was not counted yet: it may be a batch more.
        assert outcome.state.progress.step - straight.state.progress.step in {0, 1}


@pytest.mark.sweep
@pytest.mark.parametrize("seconds", [1e6, 1e-9])
def test_it_is_a_subscriber_by_the_laws(seconds: float) -> None:
    check_subscriber(lambda: TimeLimit(seconds), examples=3)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), True, "1h", None])
def test_what_is_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match=r"seconds is .*; expected a finite number above 0"):
        TimeLimit(seconds)
