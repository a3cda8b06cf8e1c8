"""A fit with a goal in steps: where it is cut, what it tells, and that it goes on to its goal from anywhere."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import (
    CancelBatch,
    CancelEpoch,
    DataLoaders,
    Learner,
    Progress,
    Subscriber,
    TrainState,
    Transition,
    advance,
    epoch_step,
    fit_step,
    supervised,
)
from nntrain.checkpoint import load, save
from nntrain.data import segments
from nntrain.errors import ConfigError
from nntrain.log import JsonLog, read, replay
from nntrain.subscribers.protocol import AnswerBatch, AnswerEpoch
from nntrain.update import accumulate, chain, optimizer

Batch = tuple[Tensor, Tensor]


def batches(count: int) -> list[Batch]:
    source = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 1, generator=source), torch.randn(2, 1, generator=source)) for _ in range(count)]


def learner_of(train: Any = None, **arguments: Any) -> Learner[Batch]:
    torch.manual_seed(0)
    dls = DataLoaders(train or batches(3), batches(2))
    return Learner(nn.Linear(1, 1), dls, mse_loss, mse_loss, torch.optim.SGD, 0.1, **arguments)


def shape(state: TrainState) -> list[tuple[int, str, int]]:
    return [(one.epoch, one.phase, one.batches) for one in state.history]


def test_the_last_phase_is_cut_and_has_its_statistics_and_its_eval() -> None:
    seen: list[str] = []
    learner = learner_of(sinks=[lambda transition: seen.append(transition.at)])
    printed = io.StringIO()
    with redirect_stdout(printed):
        state = learner.fit(steps=5).state
    assert (state.progress.step, state.progress.at, state.progress.until) == (5, "finished", 5)
    assert shape(state) == [(0, "train", 3), (0, "eval", 2), (1, "train", 2), (1, "eval", 2)]
    assert len(printed.getvalue().splitlines()) == 4
    assert seen[-1] == "after_fit"
    assert seen.count("after_epoch") == 4


@given(count=st.integers(1, 4), steps=st.integers(1, 9), more=st.integers(1, 5))
@settings(max_examples=8)
def test_a_fit_of_steps_is_the_beginning_of_one_of_epochs(count: int, steps: int, more: int) -> None:
    """The same weights after as many steps; and a second fit counts on."""
    weights: dict[int, Tensor] = {}

    def note(transition: Transition) -> None:
        weights.setdefault(transition.state.progress.step, transition.state.params["weight"])

    learner_of(batches(count), sinks=[note]).fit(9, print_stats=False)
    learner = learner_of(batches(count))
    outcome = fit_step(learner, learner.init(), steps=steps)
    assert outcome.state.progress.step == steps
    assert torch.equal(outcome.state.params["weight"], weights[steps])
    assert [one.epoch for one in outcome.state.history] == [e for e in range(-(-steps // count)) for _ in range(2)]
    again = fit_step(learner, outcome.state, steps=more).state
    assert again.progress.step == again.progress.until == steps + more
    assert fit_step(learner, again, epochs=1).state.progress.step == steps + more + count


class SkipsSome(Subscriber[Batch]):
    """Cancels the second batch of each epoch, and the whole of epoch 1."""

    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        return CancelBatch() if state.progress.batch == 1 else state

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        return CancelEpoch() if state.progress.epoch == 1 else state


def loaders() -> dict[str, Callable[[], Any]]:
    return {"list": lambda: batches(3), "segments": lambda: segments(batches(3), batches=2)}


@pytest.mark.parametrize(
    ("data", "subs"), [("segments", [SkipsSome()]), pytest.param("list", [], marks=pytest.mark.sweep)]
)
def test_it_goes_on_to_its_goal_from_every_transition(data: str, subs: list[Any], tmp_path: Path) -> None:
    """Law 4, through a file; and law 11: `advance` and `epoch_step` end where `fit_step` does."""
    states: list[TrainState] = []
    learner = learner_of(loaders()[data](), subs=subs, sinks=[lambda one: states.append(copy.deepcopy(one.state))])
    straight = fit_step(learner, learner.init(), steps=5)
    assert straight.state.progress.step == 5
    for state in states[:-1]:
        save(state, tmp_path / "state.safetensors")
        other = learner_of(loaders()[data](), subs=subs)
        resumed = fit_step(other, load(tmp_path / "state.safetensors", other))
        assert resumed == straight
        assert resumed.state.history == straight.state.history
    small = learner_of(loaders()[data](), subs=subs)
    state = with_steps(small.init(), 5)
    visited: list[TrainState] = []
    while state.progress.at != "finished":
        state = advance(small, state).state
        visited.append(copy.deepcopy(state))
    assert visited == states
    state = advance(small, with_steps(small.init(), 5)).state
    while state.progress.at == "before_epoch":
        state = epoch_step(small, state).state
    assert advance(small, state).state == straight.state


def with_steps(state: TrainState, steps: int) -> TrainState:
    return state.model_copy(update={"progress": state.progress.model_copy(update={"until": steps})})


def test_a_new_goal_amid_a_fit_counts_from_init_as_epochs_do() -> None:
    learner = learner_of()
    amid = learner.init(epochs=4)
    while amid.progress.step < 4:
        amid = advance(learner, amid).state
    assert fit_step(learner, amid, steps=6).state.progress.step == 6
    assert fit_step(learner, amid, epochs=2).state.progress.step == 6
    assert fit_step(learner, amid, steps=3).state.progress.step == 4  # it lies behind: the phase is cut at once
    assert fit_step(learner, fit_step(learner, amid, steps=6).state, epochs=1).state.progress.step == 9
    goal = fit_step(learner, amid, steps=6).state.progress
    assert (goal.epochs, goal.until) == (0, 6)
    between = learner.init(epochs=4)
    while (between.progress.at, between.progress.epoch) != ("before_epoch", 1):
        between = advance(learner, between).state
    assert fit_step(learner, between, steps=3).state.history == between.history
    assert fit_step(learner, between, steps=4).state.progress.step == 4


def test_the_state_says_its_goal() -> None:
    learner = learner_of()
    state = fit_step(learner, learner.init(), steps=2).state
    assert "epoch=1, phase=train, batch=0, step=2/2, " in repr(state)
    assert state != with_steps(state, 3)
    assert [one.name for one in state.diff(with_steps(state, 3)).values] == ["progress/until"]
    before = {name: value for name, value in state.progress.model_dump().items() if name not in {"until", "data"}}
    assert (Progress(**before).until, Progress(**before).data) == (None, "")  # of a file of before


def test_the_log_says_the_goal(tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner = learner_of(sinks=[log])
        state = fit_step(learner, learner.init(), steps=4).state
    (run,) = replay(read(tmp_path / "log.jsonl"))
    assert (run.until, run.epochs, run.history) == (4, 0, state.history)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"steps": 0}, "steps is 0; expected a whole number of 1 or more."),
        ({"steps": -3}, "steps is -3; expected"),
        ({"steps": True}, "steps is True; expected"),
        ({"steps": 2.0}, "steps is 2.0; expected"),
        ({"steps": "2"}, "steps is '2'; expected"),
        ({"epochs": 1, "steps": 2}, "A fit has one goal; got epochs=1 and steps=2. Give one of them."),
        ({"epochs": 0, "steps": 2}, "A fit has one goal; got epochs=0 and steps=2."),
    ],
)
def test_goals_that_cannot_be_meant(goal: dict[str, Any], message: str) -> None:
    learner = learner_of()
    state = learner.init()
    amid = advance(learner, learner.init(epochs=2)).state
    calls: list[Callable[[], object]] = [
        lambda: learner.fit(**goal),
        lambda: fit_step(learner, state, **goal),
        lambda: fit_step(learner, amid, **goal),
    ]
    for call in calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value).startswith(message)


def test_a_fit_without_a_goal_is_refused() -> None:
    learner = learner_of()
    with pytest.raises(ConfigError, match=r"A fit needs a goal: epochs=..., or steps=..."):
        learner.fit()
    with pytest.raises(
        ConfigError, match=r"A fresh state needs a goal: fit_step\(learner, state, epochs=...\), or ste"
    ):
        fit_step(learner, learner.init())
    with pytest.raises(ConfigError, match=r"A finished state needs a goal"):
        fit_step(learner, fit_step(learner, learner.init(), steps=1).state)


def test_a_goal_that_no_batch_leads_to_is_told() -> None:
    class CancelsAll(Subscriber[Batch]):
        def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
            return CancelBatch() if state.progress.epoch and state.progress.phase == "train" else state

    learner = learner_of(subs=[CancelsAll()])
    with pytest.raises(
        ConfigError, match=r"Every batch of the last 100 epochs was cancelled: .* at step 3, and its goal is step 9"
    ):
        learner.fit(steps=9, print_stats=False)
    assert learner.fit(epochs=3, print_stats=False).state.progress.step == 3


def test_steps_are_those_of_the_optimizer_where_several_batches_make_one() -> None:
    """Two batches a step, and one for the last of three: the goal is reached after two of the second epoch."""
    learner: Learner[Batch, Any] = Learner.of(
        nn.Linear(1, 1),
        DataLoaders(batches(3), batches(2)),
        supervised(mse_loss),
        chain(accumulate(2), optimizer(torch.optim.SGD, lr=0.1)),
    )
    states: list[TrainState] = []
    told = learner.replace(sinks=[lambda one: states.append(copy.deepcopy(one.state))])
    straight = told.fit(steps=3, print_stats=False)
    assert straight.state.progress.step == 3
    assert shape(straight.state) == [(0, "train", 3), (0, "eval", 2), (1, "train", 2), (1, "eval", 2)]
    for state in states[:-1]:
        assert fit_step(learner, state) == straight
