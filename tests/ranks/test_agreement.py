"""What one rank's subscriber answers holds for all; what fails on one ends all, with its error, and nothing hangs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nntrain import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Cancelled,
    Engine,
    Learner,
    Record,
    Slot,
    Subscriber,
    TrainState,
    state_before,
)
from nntrain.data import DataLoaders
from nntrain.errors import RankError
from nntrain.ranks.options import DataParallel
from tests.ranks.launching import LaunchError, launch

Batch = tuple[Tensor, Tensor]


class Seen(Record, frozen=True):
    count: int = 0


SEEN = Slot("tests.seen", Seen, Seen())


def learner_of(*subs: Subscriber[Batch], timeout: float = 30.0, batches: int = 4) -> Learner[Batch]:
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(5)
    data = [
        (torch.randn(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)) for _ in range(batches)
    ]
    return Learner(
        nn.Linear(6, 3),
        DataLoaders(data, data),
        nn.functional.cross_entropy,
        {},
        torch.optim.SGD,
        0.1,
        subs,
        engine=Engine(parallel=DataParallel(timeout=timeout)),
    )


class OnRank(Subscriber[Batch]):
    """Answers on one rank alone, at one event and step."""

    def __init__(self, rank: int, event: str, answer: Callable[[TrainState], Any], step: int = 2) -> None:
        self.rank, self.event, self.answer, self.step = rank, event, answer, step

    def _asked(self, event: str, state: TrainState) -> Any:
        mine = dist.get_rank() == self.rank and event == self.event
        return self.answer(state) if mine and state.progress.step >= self.step else state

    def before_batch(self, state: TrainState, batch: Batch) -> Any:
        return self._asked("before_batch", state)

    def after_batch(self, state: TrainState, batch: Batch, output: Any) -> Any:
        return self._asked("after_batch", state)

    def after_epoch(self, state: TrainState) -> Any:
        return self._asked("after_epoch", state)


def seen_more(state: TrainState) -> TrainState:
    return state.put(SEEN, Seen(count=state.get(SEEN).count + 1))


def scaled(state: TrainState) -> TrainState:
    return seen_more(state).scale_lr(0.5)


def zeroed(state: TrainState) -> TrainState:
    return state.with_params({name: torch.zeros_like(one) for name, one in state.params.items()})


def cancelling(state: TrainState) -> CancelFit:
    return CancelFit(reason="enough", state=scaled(state))


ANSWERS: dict[str, Callable[[TrainState], Any]] = {
    "state": scaled,
    "weights": zeroed,
    "batch": lambda state: CancelBatch(reason="bad batch"),
    "epoch": lambda state: CancelEpoch(reason="enough"),
    "fit": cancelling,
}


def fitted(event: str, which: str, rank: int) -> dict[str, Any]:
    outcome = learner_of(OnRank(rank, event, ANSWERS[which])).fit(2, print_stats=False)
    state = outcome.state
    return {
        "params": dict(state.params),
        "progress": state.progress,
        "slots": state.get(SEEN).count,
        "lr": state.lr_scale,
        "history": [(one.phase, one.loss, one.samples) for one in state.history],
        "cancelled": (outcome.by, outcome.rank, outcome.verdict.reason) if isinstance(outcome, Cancelled) else None,
    }


def all_answers(rank: int) -> dict[tuple[str, str], dict[str, Any]]:
    events = ("before_batch", "after_batch", "after_epoch")
    return {
        (event, which): fitted(event, which, rank)
        for event in events
        for which in ANSWERS
        if not (event == "after_epoch" and which == "batch")
    }


@pytest.mark.sweep
@pytest.mark.parametrize(("size", "answering"), [(2, 0), (2, 1), (4, 2)])
def test_an_answer_of_one_rank_holds_for_all(size: int, answering: int) -> None:
    first, *others = launch(all_answers, size, answering, limit=120)
    for other_rank in others:
        for case in first:
            one, other = first[case], other_rank[case]
            assert all(torch.equal(one["params"][name], other["params"][name]) for name in one["params"]), case
            assert {**one, "params": 0} == {**other, "params": 0}, case
            _, which = case
            if which == "fit":
                assert one["cancelled"] == ("OnRank", answering, "enough"), case
            if which in {"state", "fit"}:
                assert one["slots"] > 0, case
                assert one["lr"] < 1, case


class Failing(Subscriber[Batch]):
    def __init__(self, rank: int, how: Callable[[], Any], step: int = 2) -> None:
        self.rank, self.how, self.step = rank, how, step

    def before_epoch(self, state: TrainState) -> TrainState:
        if dist.get_rank() == self.rank and state.progress.step >= self.step:
            self.how()
        return state


def fails() -> None:
    raise KeyError("no such thing")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs() -> None:
    time.sleep(300)


def ended(how: Callable[[], Any], timeout: float) -> tuple[str, int | None, str, int]:
    try:
        learner_of(Failing(1, how), timeout=timeout).fit(3, print_stats=False)
    except Exception as error:  # noqa: BLE001 - the test is told which
        before = state_before(error)
        return type(error).__name__, getattr(error, "rank", None), str(error), before.progress.step if before else -1
    return "nothing", None, "", 0


@pytest.mark.sweep
@pytest.mark.parametrize("size", [2, 4])
def test_all_end_with_the_error_of_the_rank_that_failed(size: int) -> None:
    first, second, *others = launch(ended, size, fails, 30.0)
    assert second[0] == "KeyError"
    for one in (first, *others):
        assert one[:2] == ("RankError", 1)
        assert "no such thing" in one[2]
        assert one[3] == second[3] == 4


class ModelFails(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        if dist.is_initialized() and dist.get_rank() == 1 and self.training and bool((input > 2.5).any()):
            raise ValueError("a sample is too large")
        return super().forward(input)


def model_fails() -> tuple[str, int | None, str, int]:
    learner = learner_of(timeout=6.0)
    data: list[Batch] = list(learner.dls.train)  # type: ignore[arg-type] # a list
    data[2] = data[2][0] + 100, data[2][1]
    try:
        learner.replace(model=ModelFails(6, 3), dls=DataLoaders(data, data)).fit(2, print_stats=False)
    except Exception as error:  # noqa: BLE001 - the test is told which
        before = state_before(error)
        return type(error).__name__, getattr(error, "rank", None), str(error), before.progress.step if before else -1
    return "nothing", None, "", 0


@pytest.mark.sweep
def test_a_model_that_fails_on_one_rank_ends_all() -> None:
    first, second = launch(model_fails, 2)
    assert second[0] == "ValueError"
    assert first[:2] == ("RankError", 1)
    assert "a sample is too large" in first[2]
    assert first[3] == second[3] == 2


@pytest.mark.sweep
@pytest.mark.parametrize("how", [dies, hangs])
def test_a_rank_that_is_gone_or_hangs_is_named(how: Callable[[], Any]) -> None:
    begun = time.monotonic()
    with pytest.raises(LaunchError) as failed:
        launch(_named, 2, how, limit=120)
    said = str(failed.value)
    assert "rank 0: " in said
    assert "Rank 1" in said
    assert time.monotonic() - begun < 100, "long before the rank that hangs would go on"


def _named(how: Callable[[], Any]) -> None:
    learner_of(Failing(1, how), timeout=4.0).fit(3, print_stats=False)


def stopped(rank: int) -> tuple[str, int]:
    learner = learner_of(Stopping(rank), batches=200)
    try:
        learner.fit(50, print_stats=False)
    except BaseException as error:  # noqa: BLE001 - the test is told which
        before = state_before(error)
        return type(error).__name__, before.progress.step if before else -1
    return "nothing", 0


class Stopping(Subscriber[Batch]):
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        if dist.get_rank() == self.rank and state.progress.step == 37:
            os.kill(os.getpid(), signal.SIGTERM)
        return state


@pytest.mark.sweep
@pytest.mark.parametrize("size", [2, 4])
def test_a_signal_to_one_rank_stops_all_at_the_same_step(size: int) -> None:
    first, *others = launch(stopped, size, 1)
    assert others == [first] * (size - 1)
    assert first[0] == "Terminated"
    assert first[1] > 37


def unlike(what: str) -> str:
    learner = learner_of(timeout=10.0)
    if dist.is_initialized() or int(os.environ["RANK"]) == 1:
        learner = {
            "rate": lambda: learner.replace(lr=0.2),
            "model": lambda: learner.replace(model=nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))),
            "subscribers": lambda: learner.replace(subs=[Stopping(0)]),
        }[what]()
    try:
        learner.fit(1, print_stats=False)
    except RankError as error:
        return str(error)
    return ""


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("what", "said"),
    [("rate", "setting lr: rank 0 has 0.1; rank 1 has 0.2"), ("model", "0.weight"), ("subscribers", "Stopping")],
)
def test_ranks_that_are_unlike_are_told_before_any_work(what: str, said: str) -> None:
    for found in launch(unlike, 2, what, limit=90):
        assert said in found


def test_the_error_can_be_sent_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(RankError("rank 3 is gone", 3)))
    assert (str(error), error.rank) == ("rank 3 is gone", 3)
