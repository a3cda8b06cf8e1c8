"""Two subscribers of one order that write the same part of the state: the learner says so, once, and only then."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from nntrain import CancelFit, DataLoaders, Learner, Slot, Subscriber, TrainState, accuracy, advance, on
from nntrain.errors import OrderWarning
from nntrain.events import BatchOutput
from nntrain.log import JsonLog
from nntrain.records import History, evolved

Batch = tuple[Tensor, Tensor]


class Count(BaseModel, frozen=True, arbitrary_types_allowed=True):
    seen: int = 0
    weights: Tensor | None = None


SHARED = Slot("tests.interference.shared", Count, default=Count())


class Sets(Subscriber[Batch]):
    """Puts a number under a slot that others may use too."""

    def __init__(self, name: str, value: int, order: int = 0, slot: Slot[Count] = SHARED) -> None:
        self.name = name
        self.order = order
        self.value = value
        self.slot = slot

    def after_epoch(self, state: TrainState) -> TrainState:
        return state.put(self.slot, Count(seen=self.value))


class Replaces(Subscriber[Batch]):
    """Answers a state with one field changed."""

    def __init__(self, name: str, change: Callable[[TrainState], TrainState | CancelFit]) -> None:
        self.name = name
        self.change = change

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState | CancelFit:
        return self.change(state)


def learner_of(*subs: Any, **more: Any) -> Learner[Batch]:
    batches = [(torch.randn(4, 2), torch.randint(0, 2, (4,))) for _ in range(2)]
    return Learner(
        nn.Linear(2, 2),
        DataLoaders(batches, batches[:1]),
        nn.functional.cross_entropy,
        accuracy,
        torch.optim.SGD,
        0.1,
        list(subs),
        **more,
    )


def warnings_of(learner: Learner[Batch], fits: int = 1) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(fits):
            learner.fit(2, print_stats=False)
    assert all(one.category is OrderWarning for one in caught)
    return [str(one.message) for one in caught]


def test_two_that_write_one_slot_are_told_of_once_and_the_log_has_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonLog(path) as log:
        (said,) = warnings_of(learner_of(Sets("one", 1), Sets("other", 2), sinks=[log]), fits=2)
    assert said == (
        "one and other both write the state's slot 'tests.interference.shared' at after_epoch, and both have order 0: "
        "other is asked last because it is listed later. Give one of them another order; nntrain.testing.clashes tells "
        "whether it matters which."
    )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = [line for line in lines if line["event"] == "warning"]
    assert [(line["code"], line["text"]) for line in told] == [("subscribers.order", said)] * 2  # once a run
    first = lines.index(told[0])
    assert lines[first]["phase"] == "train"
    assert lines[first - 1]["event"] == "epoch_finished"


class Counts(Subscriber[Batch]):
    """Reads and writes one slot, as any memory is."""

    def __init__(self, name: str, factor: int) -> None:
        self.name = name
        self.factor = factor

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        return state.put(SHARED, Count(seen=state.get(SHARED).seen * self.factor + 1))


def test_of_two_that_read_and_write_one_slot_the_writing_is_told() -> None:
    (said,) = warnings_of(learner_of(Counts("one", 1), Counts("other", 2)))
    assert said.startswith("one and other both write the state's slot 'tests.interference.shared' at after_batch, and")
    assert warnings_of(learner_of(Counts("alone", 2))) == []


def test_each_two_of_three_are_told_of() -> None:
    names = [said.split(" both")[0] for said in warnings_of(learner_of(*(Sets(name, ord(name)) for name in "abc")))]
    assert names == ["a and b", "a and c", "b and c"]


def weighs(state: TrainState) -> TrainState:
    return state.put(SHARED, Count(weights=torch.ones(2)))


class Reads(Subscriber[Batch]):
    """Cancels the fit where the other's slot says so."""

    name = "reader"

    def __init__(self, slot: Slot[Count] = SHARED, order: int = 0) -> None:
        self.slot = slot
        self.order = order

    def after_epoch(self, state: TrainState) -> TrainState | CancelFit:
        return CancelFit(reason="enough") if state.get(self.slot).seen > 9 else state


OTHER = Slot("tests.interference.other", Count, default=Count())
SILENT: dict[str, list[Any]] = {
    "other orders": [Sets("one", 1), Sets("other", 2, order=1)],
    "other slots": [Sets("one", 1), Sets("other", 2, slot=OTHER)],
    "the same value": [Sets("one", 1), Sets("other", 1)],
    "the same tensor": [on("after_epoch")(weighs), on("after_epoch")(weighs)],
    "one that reads another slot": [Sets("one", 1), Reads(OTHER)],
    "one that reads it in another order": [Sets("one", 1), Reads(order=1)],
    "two that read it": [Reads(), Reads()],
    "one alone": [Sets("one", 1)],
    "other events": [Sets("one", 1), on("before_epoch")(lambda state: state.put(SHARED, Count(seen=2)))],
    "the learning rate, which is multiplied": [
        Replaces(name, lambda state: state.scale_lr(0.5)) for name in ("one", "other")
    ],
    "nothing": [Replaces(name, lambda state: state) for name in ("one", "other")],
}


@pytest.mark.parametrize("subs", SILENT.values(), ids=SILENT)
def test_others_are_not(subs: list[Any]) -> None:
    assert warnings_of(learner_of(*subs)) == []


def as_at_first(state: TrainState) -> TrainState:
    return evolved(state, tensors=learner_of().init().tensors)


WRITTEN: dict[str, tuple[Callable[[TrainState], TrainState | CancelFit], str]] = {
    "key": (lambda state: evolved(state, key=state.key.fold(1)), "key"),
    "history": (lambda state: evolved(state, history=History((*state.history, *state.history[:1]))), "history"),
    "tensors": (as_at_first, "tensors"),
    "a verdict's state": (lambda state: CancelFit(state=evolved(state, key=state.key.fold(1))), "key"),
}


@pytest.mark.parametrize(("change", "part"), WRITTEN.values(), ids=WRITTEN)
def test_every_part_that_can_be_overwritten_is_seen(
    change: Callable[[TrainState], TrainState | CancelFit], part: str
) -> None:
    def first(state: TrainState) -> TrainState:
        answer = change(state)
        return answer if isinstance(answer, TrainState) else answer.state or state

    said = warnings_of(learner_of(Replaces("one", first), Replaces("other", change)))
    assert [one.split(" at ")[0] for one in said] == [f"one and other both write the state's {part}"]


@pytest.mark.parametrize(
    ("subs", "said"),
    [
        ([Sets("one", 1), Reads()], "order 0: reader is asked last"),
        ([Reads(), Sets("one", 1)], "order 0: one is asked last"),
    ],
    ids=["after it was written", "before it is written"],
)
def test_one_that_reads_what_the_other_writes_is_told_of(subs: list[Any], said: str) -> None:
    (found,) = warnings_of(learner_of(*subs))
    assert found.startswith(
        "reader reads the state's slot 'tests.interference.shared', which one writes at after_epoch, and both have"
    )
    assert said in found


def test_what_another_thread_reads_meanwhile_is_not_the_subscriber_s_doing() -> None:
    @on("after_epoch")
    def is_read_beside(state: TrainState) -> TrainState:
        thread = threading.Thread(target=lambda: state.get(SHARED))
        thread.start()
        thread.join()
        return state

    assert warnings_of(learner_of(Sets("one", 1), is_read_beside)) == []


def test_as_an_error_it_comes_before_anything_is_written() -> None:
    learner = learner_of(Sets("one", 1), Sets("other", 2))
    state = learner.init(epochs=1)
    while state.progress.at != "after_epoch":
        state = advance(learner, state).state
    with warnings.catch_warnings():
        warnings.simplefilter("error", OrderWarning)
        with pytest.raises(OrderWarning, match="one and other"):
            advance(learner, state)
    assert advance(learner, state).state.get(SHARED).seen == 2
