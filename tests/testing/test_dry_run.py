"""`dry_run`: what it says of a log is what the training itself came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nntrain import (
    BatchOutput,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Cancelled,
    EarlyStopping,
    Learner,
    LogEvent,
    Subscriber,
    TrainState,
    on,
)
from nntrain.errors import ConfigError, StateError, SubscriberError
from nntrain.log import JsonLog, LogReadError
from nntrain.subscribers.protocol import AnswerBatch, AnswerEpoch
from nntrain.testing import Plan, dry_run, small_learner
from nntrain.values.progress import Place, Progress

Batch = tuple[Tensor, Tensor]


def recorded(path: Path, epochs: int, **options: Any) -> Path:
    with JsonLog(path, **options) as log:
        small_learner(Plan(train=(3, 3), valid=(2,), lr=2.0)).replace(sinks=[log]).fit(epochs, print_stats=False)
    return path


@pytest.mark.sweep
@given(
    patience=st.integers(1, 3), min_delta=st.sampled_from([0.0, 0.05, 0.5]), phase=st.sampled_from(["train", "eval"])
)
def test_early_stopping_stops_where_the_training_does(
    tmp_path_factory: pytest.TempPathFactory, patience: int, min_delta: float, phase: Any
) -> None:
    log = recorded(tmp_path_factory.mktemp("run") / "log.jsonl", 6)

    def make() -> EarlyStopping:
        return EarlyStopping(patience=patience, min_delta=min_delta, phase=phase)

    found = dry_run(make(), log)
    outcome = small_learner(Plan(train=(3, 3), valid=(2,), lr=2.0), [make()]).fit(6, print_stats=False)
    if isinstance(outcome, Cancelled):
        assert found.stopped is not None
        assert found.stopped.verdict is not None
        assert found.stopped.verdict.reason == outcome.verdict.reason
        assert found.stopped.progress.epoch == outcome.state.progress.epoch
    else:
        assert found.stopped is None
    assert found.state.slots == outcome.state.slots
    assert found.state.history == outcome.state.history
    assert found.unheard == ()


class Seen(Subscriber[object]):
    """Notes what it is asked, in a list of the test's."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Place, Progress, int, float | None]] = []

    def _note(self, event: str, state: TrainState, output: BatchOutput | None = None) -> TrainState:
        loss = None if output is None else output.loss.item()
        self.asked.append((event, state.progress.at, state.progress, len(state.history), loss))
        return state

    def before_fit(self, state: TrainState) -> TrainState:
        return self._note("before_fit", state)

    def after_fit(self, state: TrainState) -> TrainState:
        return self._note("after_fit", state)

    def before_epoch(self, state: TrainState) -> TrainState:
        return self._note("before_epoch", state)

    def after_epoch(self, state: TrainState) -> TrainState:
        return self._note("after_epoch", state)

    def before_batch(self, state: TrainState, batch: object) -> TrainState:
        return self._note("before_batch", state)

    def after_batch(self, state: TrainState, batch: object, output: BatchOutput) -> TrainState:
        return self._note("after_batch", state, output)


def test_it_is_asked_what_the_training_asked(tmp_path: Path) -> None:
    trained, dry = Seen(), Seen()
    with JsonLog(tmp_path / "log.jsonl", every=1) as log:
        small_learner(Plan(train=(3, 3), valid=(2,)), [trained]).replace(sinks=[log]).fit(2, print_stats=False)
    found = dry_run(dry, tmp_path / "log.jsonl")
    known = ("epoch", "phase", "batch", "step", "epochs")
    for one, other in zip(trained.asked, dry.asked, strict=True):
        assert (one[0], one[1], one[3], one[4]) == (other[0], other[1], other[3], other[4])
        assert all(getattr(one[2], name) == getattr(other[2], name) for name in known), (one, other)
    assert found.asked["after_batch"] == 6
    assert found.answers == ()


def test_batches_that_the_log_has_not_are_said_to_be_unheard(tmp_path: Path) -> None:
    found = dry_run(Seen(), recorded(tmp_path / "log.jsonl", 1))
    assert found.unheard == ("before_batch", "after_batch")
    assert "after_batch" not in found.asked


class Halves(LogEvent, frozen=True):
    event: Literal["dry.halves"] = "dry.halves"
    by: float


class Answers(Subscriber[object]):
    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        if state.progress.epoch == 1 and state.progress.phase == "eval":
            return CancelEpoch(reason="no need")
        return state.scale_lr(0.5).log(Halves(by=0.5)) if state.progress.epoch == 1 else state

    def before_batch(self, state: TrainState, batch: object) -> AnswerBatch:
        return CancelBatch(reason="first") if state.progress.step == 0 else state

    def after_batch(self, state: TrainState, batch: object, output: BatchOutput) -> AnswerBatch:
        return CancelFit(reason="low") if state.progress.epoch == 2 else state


def test_all_kinds_of_answers_are_told_and_the_fit_ends_where_one_ends_it(tmp_path: Path) -> None:
    found = dry_run(Answers(), recorded(tmp_path / "log.jsonl", 4, every=1))
    assert [(one.event, one.progress.epoch, one.progress.phase, type(one.verdict)) for one in found.answers] == [
        ("before_batch", 0, "train", CancelBatch),
        ("before_epoch", 1, "train", type(None)),
        ("before_epoch", 1, "eval", CancelEpoch),
        ("after_batch", 2, "train", CancelFit),
    ]
    assert found.answers[1].lr_scale == 0.5
    assert found.answers[1].logged == (Halves(by=0.5),)
    assert found.stopped == found.answers[-1]
    assert [(one.epoch, one.phase) for one in found.state.history] == [(0, "train"), (0, "eval"), (1, "train")]


@on("after_epoch")
def reads_weights(state: TrainState) -> TrainState:
    with state.borrow():
        return state


@on("after_batch")
def reads_preds(state: TrainState, batch: Any, output: BatchOutput) -> TrainState:
    output.preds.mean()  # type: ignore[attr-defined] # as an untyped caller may
    return state


@on("before_batch")
def reads_the_batch(state: TrainState, batch: Any) -> TrainState:
    assert len(batch) > 0
    return state


@pytest.mark.parametrize(
    ("subscriber", "said"),
    [
        (reads_weights, "it comes from a log, which has no weights"),
        (reads_preds, "A log has no predictions"),
        (reads_the_batch, "A log has no batch"),
    ],
)
def test_what_a_log_has_not_is_told_when_it_is_asked_for(tmp_path: Path, subscriber: Any, said: str) -> None:
    with pytest.raises(StateError, match=said):
        dry_run(subscriber, recorded(tmp_path / "log.jsonl", 1, every=1))


def test_of_several_runs_one_is_to_be_named(tmp_path: Path) -> None:
    path = recorded(tmp_path / "log.jsonl", 1)
    recorded(tmp_path / "log.jsonl", 2)
    with pytest.raises(ConfigError, match="tells of 2 runs; say which by run_id=: ") as caught:
        dry_run(EarlyStopping(), path)
    one, other = str(caught.value).rpartition(": ")[2].rstrip(".").split(", ")
    assert dry_run(EarlyStopping(), path, run_id=one).asked["after_epoch"] == 2
    assert dry_run(EarlyStopping(), path, run_id=other).asked["after_epoch"] == 4
    with pytest.raises(ConfigError, match="tells of no run 7"):
        dry_run(EarlyStopping(), path, run_id="7")


def test_what_is_no_log_or_no_subscriber_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.jsonl").write_text("{}\n")
    with pytest.raises(LogReadError):
        dry_run(EarlyStopping(), tmp_path / "no.jsonl")
    with pytest.raises(ConfigError, match="tells of no run"):
        dry_run(EarlyStopping(), [])
    wrong: Any = EarlyStopping
    with pytest.raises(SubscriberError, match="pass an instance"):
        dry_run(wrong, recorded(tmp_path / "log.jsonl", 1))


def test_the_generator_is_as_it_was(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    dry_run(EarlyStopping(), recorded(tmp_path / "log.jsonl", 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fixtures_are_what_they_say(
    nntrain_learner: Learner[Batch], nntrain_states: tuple[TrainState, ...], nntrain_log: Path
) -> None:
    assert {state.progress.at for state in nntrain_states} == {
        "before_fit",
        "before_epoch",
        "batch",
        "after_epoch",
        "after_fit",
        "finished",
    }
    assert nntrain_states[-1] == nntrain_learner.fit(2, print_stats=False).state
    assert dry_run(EarlyStopping(), nntrain_log).state.history == nntrain_states[-1].history
