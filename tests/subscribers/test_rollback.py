"""`Rollback`: back to the last good state, and on otherwise; all of it in the state, and in the log."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Cancelled,
    Completed,
    DataLoaders,
    Learner,
    Outcome,
    Sink,
    Subscriber,
    TrainState,
    Transition,
    advance,
    fit_step,
)
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError
from nntrain.log import JsonLog, Line, read, replay
from nntrain.subscribers.protocol import AnswerBatch
from nntrain.subscribers.rollback import LastGood, Rollback, first_not_finite
from nntrain.values.log_event import RolledBack
from nntrain.values.output import BatchOutput
from nntrain.values.record import evolved
from nntrain.values.tensors import Snapshot, copied_snapshot
from tests.laws.strategies import KeyedLoader

Batch = tuple[Tensor, Tensor]


def batches(count: int, scale: float = 1.0) -> list[Batch]:
    source = torch.Generator().manual_seed(1)
    inputs = [torch.randn(4, 3, generator=source) * scale for _ in range(count)]
    return [(one, one.sum(1, keepdim=True)) for one in inputs]


def error_of(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).abs().mean()


def learner_of(
    subs: Sequence[Subscriber[Batch]],
    *sinks: Sink,
    lr: float = 0.05,
    train: Any = None,
    model: nn.Module | None = None,
    optimizer: Any = torch.optim.SGD,
) -> Learner[Batch]:
    if model is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Linear(3, 1)
    train = batches(12) if train is None else train
    return Learner(model, DataLoaders(train, batches(2)), mse_loss, error_of, optimizer, lr, subs, sinks=sinks)


def rolled_back(told: list[Transition]) -> list[RolledBack]:
    return [event for one in told for event in one.logged if isinstance(event, RolledBack)]


class Diverging:
    """A learning rate at which the weights double their error with each step, until they overflow."""

    lr = 30.0


def test_a_rate_that_is_too_high_is_lowered_until_the_loss_stays_finite(tmp_path: Path) -> None:
    told: list[Transition] = []
    with JsonLog(tmp_path / "log.jsonl", every="all") as log:
        learner = learner_of([Rollback(every=10, at_most=20)], told.append, log, lr=Diverging.lr)
        outcome = learner.fit(10, print_stats=False)
    assert isinstance(outcome, Completed)
    events = rolled_back(told)
    assert [event.times for event in events] == list(range(1, len(events) + 1))
    assert [event.lr_scale for event in events] == [0.5**times for times in range(1, len(events) + 1)]
    assert events
    assert outcome.state.lr_scale == 0.5 ** len(events)
    assert all(tensor.isfinite().all() for tensor in outcome.state.params.values())
    assert all(math.isfinite(stats.loss) for stats in outcome.state.history)
    assert outcome.state.get(Rollback.slot) == LastGood(times=len(events), mean=outcome.state.get(Rollback.slot).mean)

    lines = list(read(tmp_path / "log.jsonl"))
    assert [line.event for line in lines if isinstance(line.event, RolledBack)] == events
    assert {line.level for line in lines if isinstance(line.event, RolledBack)} == {"warning"}
    (run,) = replay(lines)
    assert run.history == outcome.state.history
    assert rates(lines) == {Diverging.lr * 0.5**times for times in range(len(events) + 1)}


def rates(lines: Sequence[Line]) -> set[float]:
    return {
        line.event.__dict__["lr"] for line in lines if line.event.event == "batch_finished" and line.phase == "train"
    }


def test_what_it_goes_on_with_is_the_kept_state_with_another_key_and_rate() -> None:
    """By hand: the same weights, the position of the good state, `key.fold_in(5, 1)`, half of the rate."""
    told: list[Transition] = []
    poisoned = KeyedLoader(batches(40))

    def loss(preds: Tensor, target: Tensor) -> Tensor:
        return mse_loss(preds, target) * (
            math.nan if told and told[-1].state.progress.step == 26 and not again else 1.0
        )

    again: list[int] = []
    learner = learner_of([Rollback(every=10)], told.append, train=poisoned).replace(loss_fn=loss)
    states: list[TrainState] = []
    state = learner.init(3, epochs=1)
    while state.progress.at != "finished" and not again:
        state = advance(learner, state).state
        states.append(state)
        again += [event.to_step for event in rolled_back(told)]
    assert again == [20]
    good = next(one for one in states if one.progress.step == 20)
    expected = evolved(good, key=good.key.fold_in(5, 1), lr_scale=0.5, slots=state.slots)
    assert state == expected
    assert state.get(Rollback.slot).good == evolved(good, slots=type(good.slots)())
    plain = learner.replace(subs=[], sinks=[])
    by_hand = fit_step(plain, evolved(expected, slots=type(good.slots)())).state
    finished = fit_step(learner, state).state
    assert finished.tensors == by_hand.tensors
    assert finished.history == by_hand.history


def test_a_training_that_goes_well_has_the_bits_of_one_that_is_not_watched() -> None:
    watched = learner_of([Rollback(every=3, spike=2.0)]).fit(3, print_stats=False).state
    alone = learner_of([]).fit(3, print_stats=False).state
    assert evolved(watched, slots=alone.slots) == alone
    assert watched.get(Rollback.slot).times == 0


def test_after_at_most_so_many_times_the_fit_is_cancelled_at_the_last_good_state() -> None:
    poisoned = batches(12)
    poisoned[7] = (poisoned[7][0] * math.nan, poisoned[7][1])
    told: list[Transition] = []
    outcome = learner_of([Rollback(every=2, at_most=2)], told.append, train=poisoned).fit(2, print_stats=False)
    assert isinstance(outcome, Cancelled)
    assert isinstance(outcome.verdict, CancelFit)
    assert (outcome.by, outcome.event) == ("Rollback", "after_batch")
    assert outcome.verdict.reason == "the loss is nan, by step 8; went back 2 times before"
    assert outcome.state.progress.step == 6
    assert len(rolled_back(told)) == 2
    assert all(tensor.isfinite().all() for tensor in outcome.state.params.values())


def test_a_spike_is_a_mean_that_is_so_many_times_the_one_before() -> None:
    jump = batches(30)
    for index in range(20, 23):
        jump[index] = (jump[index][0], jump[index][1] + 30.0)
    told: list[Transition] = []
    outcome = learner_of([Rollback(every=3, spike=5.0, at_most=1)], told.append, train=jump).fit(1, print_stats=False)
    (event,) = rolled_back(told)
    assert event.reason.startswith("the loss is 294.9, after 2.1")
    assert event.to_step == 18
    assert isinstance(outcome, Cancelled)  # the very same batches come again
    calm: list[Transition] = []
    assert isinstance(learner_of([Rollback(every=3)], calm.append, train=jump).fit(1, print_stats=False), Completed)
    assert not rolled_back(calm)


def test_a_state_amid_a_spike_is_not_kept_as_a_good_one() -> None:
    """The mean of the window is low still, and its last loss is up already."""
    told: list[Transition] = []
    losses = {19: 60.0, 20: 1000.0, 21: 1000.0}

    def loss(preds: Tensor, target: Tensor) -> Tensor:
        step = told[-1].state.progress.step if told else 0
        return mse_loss(preds, target) * 0 + (1.0 if rolled_back(told) else losses.get(step, 1.0))

    learner = learner_of([Rollback(every=10, spike=30.0)], told.append, train=batches(40))
    assert isinstance(learner.replace(loss_fn=loss).fit(1, print_stats=False), Completed)
    assert [(event.to_step, event.reason) for event in rolled_back(told)] == [
        (10, "the loss is 97.18, after 1, by step 21")
    ]
    # One batch that is up, and calm after it: kept then, and nothing is taken back.
    told.clear()
    losses = {19: 60.0}
    assert isinstance(learner.replace(loss_fn=loss).fit(1, print_stats=False), Completed)
    assert not rolled_back(told)


def test_what_goes_wrong_at_the_end_of_a_phase_is_seen_before_the_next_epoch() -> None:
    """Less than `every` steps after the last look, in the only epoch."""
    poisoned = batches(12)
    poisoned[11] = (poisoned[11][0] * math.inf, poisoned[11][1])
    told: list[Transition] = []
    outcome = learner_of([Rollback(every=5, at_most=1)], told.append, train=poisoned).fit(1, print_stats=False)
    assert isinstance(outcome, Cancelled)
    (event,) = rolled_back(told)
    assert (event.to_step, event.to_epoch, event.to_batch) == (10, 0, 10)
    assert outcome.state.history == ()


def test_weights_that_are_not_finite_are_not_kept_though_the_losses_are() -> None:
    """The last step before a look writes an infinity; the loss would show it with the batch after it only."""

    steps = itertools.count(1)  # the optimizer's own would be gone back with

    class Breaking(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step()
            if next(steps) == 4:
                self.param_groups[0]["params"][0].data.fill_(math.inf)

    told: list[Transition] = []
    outcome = learner_of([Rollback(every=4)], told.append, optimizer=Breaking).fit(1, print_stats=False)
    assert isinstance(outcome, Completed)
    (event,) = rolled_back(told)
    assert event.reason == "the weights or the optimizer's memory are not finite, by step 5"
    assert event.to_step == 0


@pytest.mark.sweep
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_every_transition_can_be_gone_on_from_through_a_file(tmp_path: Path, optimizer: Any) -> None:
    """The good state, and how often it was gone back to, are in the checkpoint: law 4 holds of what goes wrong, too."""

    def learner(*sinks: Sink) -> Learner[Batch]:
        train = batches(7, scale=3.0)
        train[5] = (train[5][0] * (1e20 if optimizer is torch.optim.Adam else 1.0), train[5][1])
        subs = [Rollback(every=3, at_most=4)]
        return learner_of(subs, *sinks, lr=Diverging.lr / 10, train=KeyedLoader(train), optimizer=optimizer)

    def course(outcome: Outcome, told: list[Transition], start: int) -> object:
        return outcome, [(one.at, one.progress, one.verdict and one.verdict.reason, one.logged) for one in told[start:]]

    told: list[Transition] = []
    files: list[Path] = []

    def keep(transition: Transition) -> None:
        files.append(save(transition.state, tmp_path / f"{len(files)}.safetensors").path)

    first = learner(told.append, keep)
    straight = fit_step(first, first.init(1), 2)
    assert len(rolled_back(told)) >= 2
    for index, path in enumerate(files):
        again: list[Transition] = []
        other = learner(again.append)
        state = load(path, other)
        assert state == told[index].state
        if state.progress.at != "finished":
            resumed = fit_step(other, state)
            for one in again[:1]:
                assert [event.event for event in one.logged][:1] == ["checkpoint_loaded"]
                again[0] = evolved_transition(one)
            assert course(resumed, again, 0) == course(straight, told, index + 1)


def evolved_transition(one: Transition) -> Transition:
    """Leave out that a checkpoint was loaded."""
    changed = copy.copy(one)
    object.__setattr__(changed, "logged", one.logged[1:])
    return changed


def test_a_cancelled_train_phase_is_no_trouble() -> None:
    class Skips(Subscriber[Batch]):
        def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
            place = state.progress
            return CancelEpoch(reason="enough") if (place.phase, place.epoch, place.batch) == ("train", 0, 9) else state

    told: list[Transition] = []
    outcome = learner_of([Rollback(every=4, spike=50.0), Skips()], told.append).fit(3, print_stats=False)
    assert isinstance(outcome, Completed)
    assert not rolled_back(told)
    assert [stats.phase for stats in outcome.state.history] == ["eval", "train", "eval", "train", "eval"]


def test_others_are_not_asked_about_what_is_taken_back() -> None:
    heard: list[float] = []

    class Hears(Subscriber[Batch]):
        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
            heard.append(output.loss.item())
            return state

    poisoned = batches(12)
    poisoned[1] = (poisoned[1][0] * math.nan, poisoned[1][1])
    learner_of([Hears(), Rollback(every=1, at_most=3)], train=poisoned).fit(1, print_stats=False)
    assert heard
    assert all(map(math.isfinite, heard))


def test_each_good_state_costs_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []

    def counted(snapshot: Snapshot) -> Snapshot:
        copies.append(1)
        return copied_snapshot(snapshot)

    monkeypatch.setattr("nntrain.live.workspace.copied_snapshot", counted)
    learner_of([Rollback(every=6)]).fit(2, print_stats=False)
    assert len(copies) == 24 / 6


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    learner = learner_of([], optimizer=torch.optim.Adam)
    state = learner.fit(1, print_stats=False).state
    snapshot = state.tensors.snapshot()
    assert first_not_finite(snapshot) is None
    snapshot.optim.state["bias"]["exp_avg"].fill_(math.nan)
    assert first_not_finite(snapshot) == "optim/bias/exp_avg"
    snapshot.params["weight"].detach()[0, 1] = -math.inf
    assert first_not_finite(snapshot) == "params/weight"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"every": 0}, "every is 0; expected a whole number from 1 up"),
        ({"every": True}, "every is True"),
        ({"at_most": 1.5}, "at_most is 1.5"),
        ({"lr_factor": 0.0}, "lr_factor is 0.0; expected a number above 0, and 1 at most"),
        ({"lr_factor": math.nan}, "lr_factor is nan"),
        ({"lr_factor": 1, "new_key": False}, "the same would happen again"),
        ({"spike": 1.0}, "spike is 1.0; expected a finite number above 1"),
        ({"spike": math.inf}, "spike is inf"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Rollback(**arguments)


def test_its_verdict_is_a_batchs() -> None:
    poisoned = batches(4)
    poisoned[2] = (poisoned[2][0] * math.nan, poisoned[2][1])
    told: list[Transition] = []
    learner_of([Rollback(every=1)], told.append, train=poisoned).fit(1, print_stats=False)
    verdicts = [one.verdict for one in told if one.verdict is not None]
    assert isinstance(verdicts[0], CancelBatch)
    assert verdicts[0].reason == "the loss is nan, by step 3: back to step 2"
