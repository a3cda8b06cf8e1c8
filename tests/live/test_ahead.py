"""Batches made and sent ahead: those of the loader at each position, whatever was asked for before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import CancelEpoch, DataLoaders, Key, Learner, TrainState, advance, batch_step, fit_step, on, state_before
from nntrain.data.stream import Stream
from nntrain.live import ahead
from nntrain.live.ahead import Ahead, CudaSender, Sent, sender_for
from nntrain.machine import machine
from nntrain.values.trees import tensors_of, tree_map

Batch = tuple[Tensor, Tensor]
META = torch.device("meta")


@dataclass
class Beside:
    """Stands for a device's stream: what is sent has no values before it is received."""

    did: list[str] = field(default_factory=list)
    reused: bool = False
    full: bool = False

    def send(self, batch: Any) -> Sent[Any]:
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.did.append(f"send {_number(batch)}")
        there = tree_map(batch, lambda tensor: torch.full_like(tensor, torch.nan))
        return Sent(there, tree_map(batch, torch.clone), self.reused)

    def receive(self, sent: Sent[Any]) -> Any:
        for there, value in zip(tensors_of(sent.batch), tensors_of(sent.arrival), strict=True):
            there.copy_(value)
        self.did.append(f"receive {_number(sent.batch)}")
        return sent.batch

    def released(self, sent: Sent[Any]) -> None:
        self.did.append(f"released {_number(sent.arrival)}")


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


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Beside:
    """Have learners on the CPU send their batches as to a device."""
    sender = Beside()
    monkeypatch.setattr(machine, "sender_for", lambda device: sender)
    monkeypatch.setattr(ahead, "_is_to_be_sent", lambda batch, device: True)
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


def test_where_there_is_no_memory_for_two_a_batch_is_moved_when_it_is_used(beside: Beside) -> None:
    beside.full = True
    assert learner_of().fit(2, print_stats=False).state == straight()
    assert not beside.did


@pytest.mark.parametrize("reused", [True, False])
def test_a_loader_that_uses_pinned_memory_again_waits_until_it_was_read(beside: Beside, reused: bool) -> None:
    beside.reused = reused
    learner_of(Numbered(3)).fit(1, print_stats=False)
    assert ("released 0" in beside.did) is reused
    if reused:
        assert beside.did.index("released 0") < beside.did.index("send 1")


def test_what_is_there_already_is_not_made_ahead() -> None:
    loader, beside = Numbered(), Beside()
    stream = Ahead(Stream(loader, 0), beside, torch.device("cpu"))
    assert stream.batch(Key(seed=0), 0, 0, last=False) is not None
    assert not beside.did


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
        ({"x": torch.ones(2, device="meta"), "y": torch.ones(2)}, True),
        ({"x": torch.ones(2, device="meta")}, False),
        ({"x": torch.ones(2), "graph": Opaque()}, False),
        (["a", 1], False),
    ],
    ids=["elsewhere", "in part", "there", "with an opaque part", "no tensor"],
)
def test_only_what_can_be_kept_track_of_is_sent_beside_the_work(batch: object, sent: bool) -> None:
    assert ahead._is_to_be_sent(batch, META) is sent


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
    monkeypatch.setattr(ahead, "_pinned", _told(did, "pinned", torch.clone))
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
    sent = sender.send((torch.ones(2),))
    assert did == ["on the stream beside", "pinned", "copied", "arrival marked beside", "back"]
    assert not sent.reused
    did.clear()
    sender.receive(sent)
    assert did == ["the work waits", "held"]
    sender.released(sent)
    assert did[-1] == "waited for"


def _told(did: list[str], what: str, does: Callable[..., Any]) -> Callable[..., Any]:
    def tell(*given: Any) -> Any:
        did.append(what)
        return does(*given)

    return tell
