"""Batches made and sent ahead: those of the loader at each position, whatever was asked for before."""

from __future__ import annotations

import signal
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import (
    CancelEpoch,
    DataLoaders,
    Key,
    Learner,
    TrainState,
    advance,
    batch_step,
    fit_step,
    on,
    state_before,
    supervised,
)
from nntrain.data.stream import Stream
from nntrain.live import ahead
from nntrain.live.ahead import Ahead, CudaSender, Sent, sender_for
from nntrain.machine import machine
from nntrain.update import accumulate, chain, optimizer
from nntrain.values.trees import detached, tensors_of

Batch = tuple[Tensor, Tensor]


class Arrival:
    """Copies a batch when it is waited for first, and not before."""

    def __init__(self, there: Any, source: Any) -> None:
        self._there, self._source = there, source
        self.number = _number(source)

    def happens(self) -> None:
        source, self._source = self._source, ()
        for there, value in zip(tensors_of(self._there), tensors_of(source), strict=False):
            there.copy_(value)


@dataclass
class Beside:
    """Stands for a device's stream: what is sent has no values before it arrives; what is pinned is read only then."""

    did: list[str] = field(default_factory=list)
    pinned: bool = False
    fails: Exception | None = None

    def send(self, batch: Any) -> Sent[Any]:
        if self.fails is not None:
            raise self.fails
        self.did.append(f"send {_number(batch)}")
        there = detached(batch, lambda tensor: torch.full_like(tensor, -1))
        return Sent(there, Arrival(there, batch if self.pinned else detached(batch, torch.clone)), self.pinned)

    def receive(self, sent: Sent[Any]) -> Any:
        sent.arrival.happens()
        self.did.append(f"receive {_number(sent.batch)}")
        return sent.batch

    def wait(self, arrival: Arrival) -> None:
        arrival.happens()
        self.did.append(f"wait {arrival.number}")


def _number(batch: Batch) -> int:
    return int(batch[0].flatten()[0])


class Numbered:
    """Gives batches that say their epoch and number, with noise of the generator; counts how often it begins."""

    def __init__(self, batches: int = 4, fails_at: int | None = None) -> None:
        self.count = batches
        self.fails_at = fails_at
        self.begun: list[tuple[int, int]] = []

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        self.begun.append((epoch, start))
        for index in range(start, self.count):
            if index == self.fails_at:
                raise OSError("the disk is gone")
            x = torch.rand(3, 2)
            x[0, 0] = index + 10 * epoch
            yield x, torch.ones(3, 1)


class Rewriting(Numbered):
    """Gives the same tensors each time, written anew: what was given is gone when the next is asked for."""

    def __init__(self, batches: int = 4) -> None:
        super().__init__(batches)
        self.one = torch.empty(3, 2), torch.ones(3, 1)

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        for x, _ in super().batches(key, epoch, start):
            self.one[0].copy_(x)
            yield self.one


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Beside:
    """Have learners on the CPU send their batches as to a device."""
    sender = Beside()
    monkeypatch.setattr(machine, "sender_for", lambda device: sender)
    return sender


def learner_of(loader: Any = None, valid: Any = None, **more: Any) -> Learner[Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))
    return Learner(model, DataLoaders(loader or Numbered(), valid), mse_loss, {}, torch.optim.Adam, 0.01, **more)


def straight(**more: Any) -> TrainState:
    """Return what training without sending ahead comes to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "sender_for", sender_for)
        return learner_of(**more).fit(2, print_stats=False).state


def test_each_batch_is_sent_while_the_one_before_it_is_worked_on(beside: Beside) -> None:
    loader = Numbered()
    state = learner_of(loader).fit(2, print_stats=False).state
    assert beside.did == [
        *("send 0", "send 1", "receive 0", "send 2", "receive 1", "send 3", "receive 2", "receive 3"),
        *("send 10", "send 11", "receive 10", "send 12", "receive 11", "send 13", "receive 12", "receive 13"),
    ]
    assert loader.begun == [(0, 0), (1, 0)]
    assert state == straight()


def test_the_sets_of_eval_are_sent_ahead_too(beside: Beside) -> None:
    state = learner_of(valid=Numbered(3)).fit(2, print_stats=False).state
    assert state == straight(valid=Numbered(3))
    assert beside.did.count("receive 12") == 4 - 1 - 1  # of training, and of eval


def test_a_goal_in_steps_has_no_batch_sent_that_is_not_used(beside: Beside) -> None:
    learner_of().fit(steps=2, print_stats=False)
    assert beside.did == ["send 0", "send 1", "receive 0", "receive 1"]


def test_small_steps_from_any_state_see_the_batches_of_the_straight_run(beside: Beside) -> None:
    learner, end = learner_of(), straight()
    states = [learner.init(epochs=2)]
    while states[-1].progress.at != "finished":
        states.append(advance(learner, states[-1]).state)
    assert states[-1] == end
    for state in (states[5], states[3], states[9], states[4]):  # back and on, amid phases
        assert fit_step(learner, state).state == end


def test_a_batch_of_one_s_own_takes_the_place_of_the_one_that_waits(beside: Beside) -> None:
    learner = learner_of()
    state = learner.init(epochs=1)
    while state.progress.batch < 1:
        state = advance(learner, state).state
    own = (torch.full((3, 2), 99.0), torch.ones(3, 1))
    state = batch_step(learner, state, own).state
    beside.did.clear()
    advance(learner, state)
    assert beside.did == ["send 2", "send 3", "receive 2"]


def test_after_a_cancelled_epoch_the_next_begins_at_its_beginning(beside: Beside) -> None:
    @on("after_batch")
    def cancels(state: TrainState, *_: object) -> TrainState | CancelEpoch:
        return CancelEpoch(reason="enough") if state.progress.batch == 2 else state

    state = learner_of(subs=[cancels]).fit(2, print_stats=False).state
    assert state == straight(subs=[cancels])
    assert [one for one in beside.did if one.startswith("receive")] == [f"receive {n}" for n in (0, 1, 10, 11)]


def test_an_error_ahead_is_that_of_its_own_batch(beside: Beside) -> None:
    loader = Numbered(fails_at=2)
    learner = learner_of(loader)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        learner.fit(1, print_stats=False)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.batch == 2
    loader.fails_at = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "sender_for", sender_for)
        end = learner_of().fit(1, print_stats=False).state
    assert fit_step(learner, before).state == end


@pytest.mark.parametrize("ends", ["an error", "Ctrl-C"])
def test_a_step_that_breaks_off_goes_on_with_its_own_batch(beside: Beside, ends: str) -> None:
    broken = [KeyboardInterrupt() if ends == "Ctrl-C" else ValueError(ends)]

    @on("before_batch")
    def breaks(state: TrainState, batch: Batch) -> TrainState:
        if state.progress.batch == 2 and broken:
            raise broken.pop()
        return state

    loader = Numbered()
    learner = learner_of(loader, subs=[breaks])
    with pytest.raises((ValueError, KeyboardInterrupt)) as caught:
        learner.fit(2, print_stats=False)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.batch == 2
    beside.did.clear()
    assert fit_step(learner, before).state == straight(subs=[breaks])
    assert beside.did[:3] == ["send 2", "send 3", "receive 2"]
    assert loader.begun == [(0, 0), (0, 2), (1, 0)]


def test_a_second_interrupt_while_the_next_batch_is_made_loses_none(beside: Beside) -> None:
    class Slow(Numbered):
        def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
            for batch in super().batches(key, epoch, start):
                if _number(batch) == 2 and len(self.begun) == 1:
                    raise KeyboardInterrupt
                yield batch

    learner = learner_of(Slow())
    with pytest.raises(KeyboardInterrupt) as caught:
        learner.fit(2, print_stats=False)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.batch == 1
    assert fit_step(learner, before).state == straight()


@pytest.mark.usefixtures("handler")
def test_after_ctrl_c_a_run_goes_on_where_it_stood_here_and_elsewhere(beside: Beside) -> None:
    def pressing(preds: Tensor, target: Tensor) -> Tensor:
        if beside.did[-1] == "receive 11" and beside.did.count("receive 11") == 1:
            signal.raise_signal(signal.SIGINT)
        return mse_loss(preds, target)

    loader = Numbered()
    learner = learner_of(loader).replace(loss_fn=pressing)
    with pytest.raises(KeyboardInterrupt) as caught:
        learner.fit(2, print_stats=False)
    state = state_before(caught.value)
    assert state is not None
    assert (state.progress.epoch, state.progress.batch) == (1, 2)
    assert fit_step(learner_of(), state).state == straight()
    beside.did.clear()
    assert fit_step(learner, state).state == straight()
    assert beside.did == ["send 13", "receive 12", "receive 13"]
    assert loader.begun == [(0, 0), (1, 0)]


def test_accumulation_sees_each_batch_once(beside: Beside) -> None:
    torch.manual_seed(0)
    rule = chain(accumulate(3), optimizer(torch.optim.Adam, lr=0.01))
    learner = Learner.of(nn.Linear(2, 1), DataLoaders(Numbered(5), None), supervised(mse_loss), rule)
    state = learner.fit(2, print_stats=False).state
    assert [one for one in beside.did if "receive" in one] == [f"receive {n}" for n in (*range(5), *range(10, 15))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "sender_for", sender_for)
        assert state == learner.replace().fit(2, print_stats=False).state


@pytest.mark.parametrize("fails", [torch.OutOfMemoryError("CUDA out of memory."), TypeError("not this layout")])
def test_a_batch_that_cannot_be_sent_is_moved_when_it_is_due(beside: Beside, fails: Exception) -> None:
    beside.fails = fails
    loader = Numbered()
    assert learner_of(loader).fit(2, print_stats=False).state == straight()
    assert not beside.did
    assert loader.begun == [(0, 0), (1, 0)]


@pytest.mark.parametrize("pinned", [True, False])
def test_a_loader_may_write_to_what_it_has_given(beside: Beside, pinned: bool) -> None:
    beside.pinned = pinned
    learner = learner_of(Rewriting())
    state = learner.init(epochs=2)
    assert fit_step(learner, state).state == straight()
    steps = [advance(learner, state).state]
    while steps[-1].progress.at != "finished":
        steps.append(advance(learner, steps[-1]).state)
    assert steps[-1] == straight()


def test_pinned_memory_is_read_before_the_loader_is_asked_again_even_after_the_last(beside: Beside) -> None:
    beside.pinned = True
    learner = learner_of(Rewriting())
    outcome = learner.fit(steps=2, print_stats=False)
    assert beside.did == ["send 0", "wait 0", "send 1", "receive 0", "receive 1"]
    fit_step(learner, outcome.state, steps=3)
    assert beside.did[5:7] == ["wait 1", "send 10"]


class Opaque:
    """Moves itself, and shows nobody its tensors."""

    def __init__(self) -> None:
        self.nodes = torch.ones(2)

    def to(self, device: object) -> Opaque:
        return self


@pytest.mark.parametrize(
    ("batch", "sent"),
    [
        ((torch.ones(2), torch.ones(2)), True),
        ({"x": torch.ones(2), "names": ["a", "b"], "scale": 2.0, "none": None}, True),
        (UserDict(x=torch.ones(2)), True),
        ({"x": torch.ones(2, device="meta"), "y": torch.ones(2)}, False),
        ({"x": torch.ones(2), "graph": Opaque()}, False),
        ({"x": torch.ones(2), "y": np.ones(2)}, False),
        ((torch.eye(2).to_sparse(), torch.ones(2)), False),
        (nn.Parameter(torch.ones(2)), False),
        (["a", 1], False),
    ],
    ids=[
        *("tensors", "constants beside them", "a mapping"),
        *("in part there", "an opaque part", "an array", "sparse", "a subclass", "no tensor"),
    ],
)
def test_only_what_is_copied_whole_is_sent_beside_the_work(batch: object, sent: bool) -> None:
    assert ahead._can_be_sent(batch) is sent


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_not_sent_beside_the_work() -> None:
    assert not ahead._can_be_sent([torch.nested.nested_tensor([torch.ones(2), torch.ones(1)])])


def test_what_is_not_sent_is_made_when_it_is_due() -> None:
    class Arrays(Rewriting):
        def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
            for x, _ in super().batches(key, epoch, start):
                yield x.numpy()

    beside = Beside()
    stream: Ahead[Any] = Ahead(Stream(Arrays(), 0), beside)
    for index in range(4):
        found = stream.batch(Key(seed=0), 0, index, last=False)
        assert found is not None
        assert int(found[0][0, 0]) == index
    assert stream.batch(Key(seed=0), 0, 4, last=False) is None
    assert not beside.did


def test_nothing_is_sent_to_a_cpu() -> None:
    assert sender_for(torch.device("cpu")) is None
    learner = learner_of()
    learner.init()
    assert not learner.machine._ahead


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls, where there is no device: pinned, copied and marked on the stream beside, waited for on the work's."""
    did: list[str] = []

    class Stands:
        def __init__(self, *_: object) -> None:
            self.name = "beside"

        def __enter__(self) -> None:
            did.append("on the stream beside")

        def __exit__(self, *_: object) -> None:
            did.append("back")

        def record(self, stream: Stands) -> None:
            did.append(f"arrival marked {stream.name}")

        def synchronize(self) -> None:
            did.append("waited for")

        def wait_event(self, event: Stands) -> None:
            did.append("the work waits")

    monkeypatch.setattr(torch.cuda, "Stream", Stands)
    monkeypatch.setattr(torch.cuda, "Event", Stands)
    monkeypatch.setattr(torch.cuda, "device", lambda device: warnings.catch_warnings())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stands())
    monkeypatch.setattr(ahead, "_pinned", _told(did, "pinned", lambda tensor: tensor))
    monkeypatch.setattr(ahead, "to_device", _told(did, "copied", lambda batch, device: batch))
    monkeypatch.setattr(
        ahead,
        "tensors_of",
        lambda tree: (
            [SimpleNamespace(is_cuda=True, record_stream=lambda _: did.append("held"))]
            if did[-1:] == ["the work waits"]
            else tensors_of(tree)
        ),
    )
    sender = CudaSender(torch.device("cuda", 0))
    given = [torch.ones(2)], ["names"]
    sent = sender.send(given)
    assert did == ["on the stream beside", "pinned", "copied", "arrival marked beside", "back"]
    assert not sent.reads
    assert sent.batch[0] is not given[0]
    assert sent.batch[1] is not given[1]
    did.clear()
    sender.receive(sent)
    assert did == ["the work waits", "held"]
    sender.wait(sent.arrival)
    assert did[-1] == "waited for"


def _told(did: list[str], what: str, does: Callable[..., Any]) -> Callable[..., Any]:
    def tell(*given: Any) -> Any:
        did.append(what)
        return does(*given)

    return tell
