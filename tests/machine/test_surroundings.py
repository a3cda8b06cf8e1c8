"""What surrounds a step: the caller's modes, threads that read, batches that are written to, subscribers that raise."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    BatchOutput,
    DataLoaders,
    Learner,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    fit_step,
    on,
    state_before,
)
from nntrain.values.tensors import Snapshot, copied_snapshot

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(8, 16, generator=SOURCE), torch.randint(0, 3, (8,), generator=SOURCE)) for _ in range(3)]


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def learner_of(made: nn.Module, subs: list[Subscriber[Batch]] | None = None, **more: Any) -> Learner[Batch]:
    optimizer = more.pop("optimizer", torch.optim.Adam)
    return Learner(made, DataLoaders(DATA, DATA[:2]), cross_entropy, accuracy, optimizer, 0.1, subs or [], **more)


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("event", ["before_batch", "after_batch", "after_epoch"])
@pytest.mark.parametrize("mode", MODES)
def test_a_subscriber_reads_in_any_mode_and_changes_nothing(mode: str, event: str) -> None:
    class Probe(Subscriber[Batch]):
        pass

    def read(self: object, state: TrainState, *rest: Any) -> TrainState:
        with MODES[mode]():
            state.to_module()(DATA[0][0])
        return state

    setattr(Probe, event, read)
    plain = learner_of(model()).fit(2, print_stats=False).state
    assert learner_of(model(), [Probe()]).fit(2, print_stats=False).state == plain


def test_in_a_callers_autocast_context_it_learns_and_goes_on_from_anywhere() -> None:
    learner = learner_of(model(), optimizer=torch.optim.SGD)
    with torch.autocast("cpu", torch.bfloat16):
        state = learner.init(epochs=2)
        kept: list[TrainState] = []
        while state.progress.at != "finished":
            kept.append(copy.deepcopy(state))
            state = advance(learner, state).state
    by_hand = model()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(2):
        for inputs, target in DATA:
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(by_hand(inputs), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            optimizer.step()
    for name, param in by_hand.named_parameters():
        assert torch.equal(state.params[name], param.detach()), name
    for one in kept[2:]:
        with torch.autocast("cpu", torch.bfloat16):
            assert fit_step(learner_of(model(), optimizer=torch.optim.SGD), one).state == state


@pytest.mark.parametrize("event", ["before_fit", "before_epoch", "before_batch", "after_batch", "after_epoch", "sink"])
def test_a_subscriber_or_a_sink_may_wait_for_threads_that_read_the_state(event: str) -> None:
    read: list[float] = []
    kept: list[TrainState] = []

    def norm(state: TrainState, name: str) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(state.params[name])
        return found

    def norms(state: TrainState) -> None:
        kept[:] = [*kept[-1:], state]
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(norm, one, name) for one in kept for name in one.params]
            read.extend(float(one.result(timeout=60)) for one in waiting)

    class Waits(Subscriber[Batch]):
        pass

    def asked(self: object, state: TrainState, *rest: Any) -> TrainState:
        norms(state)
        return state

    def told(transition: Transition) -> None:
        norms(transition.state)

    if event != "sink":
        setattr(Waits, event, asked)
    plain = learner_of(model()).fit(1, print_stats=False).state
    sinks = [told] if event == "sink" else []
    done = threading.Thread(
        target=lambda: read.append(
            float(learner_of(model(), [Waits()], sinks=sinks).fit(1, print_stats=False).state == plain)
        ),
        daemon=True,  # a hang fails the test, and does not hold the others up
    )
    done.start()
    done.join(120)
    assert not done.is_alive()
    assert len(read) > 4
    assert read[-1] == 1.0


def test_a_thread_that_reads_while_another_has_the_optimizer_write_waits_for_it() -> None:
    begun = threading.Event()

    class Slow(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            begun.set()
            time.sleep(0.1)
            return super().step(closure)

    def second(state: TrainState) -> Tensor:
        assert begun.wait(60)
        return state.params["0.weight"]

    @on("after_batch")
    def reads(state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        begun.clear()
        if state.progress.phase == "eval":
            return state
        with ThreadPoolExecutor(2) as pool:
            late = pool.submit(second, state)
            early = pool.submit(state.params.__getitem__, "0.weight")
            assert torch.equal(early.result(60), late.result(60))
        return state

    state = learner_of(model(), [reads], optimizer=Slow).fit(1, print_stats=False).state
    assert state == learner_of(model(), optimizer=Slow).fit(1, print_stats=False).state


class Scales(nn.Module):
    """Writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model()

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.inner(inputs.mul_(0.5))
        return scores


def test_a_model_that_writes_to_its_input_leaves_the_loaders_batches() -> None:
    before = copy.deepcopy(DATA)
    twice = learner_of(Scales()).fit(2, print_stats=False).state
    assert all(torch.equal(one[0], other[0]) for one, other in zip(DATA, before, strict=True))
    fresh = [[(inputs.clone(), target) for inputs, target in before] for _ in range(2)]

    class Fresh:
        def __init__(self) -> None:
            self.left = list(fresh)

        def __iter__(self) -> Any:
            return iter([(inputs.clone(), target) for inputs, target in before])

    other = learner_of(Scales())
    dls: Any = DataLoaders(Fresh(), [(inputs.clone(), target) for inputs, target in before[:2]])
    assert other.replace(dls=dls).fit(2, print_stats=False).state == twice


def test_after_a_failure_the_batch_that_was_written_is_whole() -> None:
    class Fails(Scales):
        def forward(self, inputs: Tensor) -> Tensor:
            super().forward(inputs)
            raise OSError("mine")

    before = copy.deepcopy(DATA)
    with pytest.raises(OSError, match="mine"):
        learner_of(Fails()).fit(1, print_stats=False)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(DATA, before, strict=True))


class Counted(torch.optim.SGD):
    """Counts its steps."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        type(self).steps += 1
        return super().step(closure)


@pytest.mark.parametrize("keeps", [False, True])
def test_where_a_subscriber_raises_the_batch_is_not_written_and_nothing_is_copied(
    keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Snapshot] = []

    def copied(snapshot: Snapshot) -> Snapshot:
        copies.append(snapshot)
        return copied_snapshot(snapshot)

    monkeypatch.setattr("nntrain.live.workspace.copied_snapshot", copied)
    Counted.steps = 0

    class Raises(Subscriber[Batch]):
        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
            if keeps:
                output.preds.sum()  # type: ignore[attr-defined] # a tensor
            if state.progress.batch == 2:
                raise RuntimeError("mine")
            return state

    with pytest.raises(RuntimeError, match="mine") as caught:
        learner_of(model(), [Raises()], optimizer=Counted).fit(1, print_stats=False)
    assert Counted.steps == 1
    assert not copies
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.step == 1
