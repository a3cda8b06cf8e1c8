"""Law 9, no waste: a fit in which nobody keeps a state makes no copy of the weights after the first batch.

Copies are counted where torch makes them: every clone and copy of a tensor of the weights' shape, below all that
the loop, the model and the optimizer do. What the hand-written loop makes of them (some optimizers clone a first
gradient) is counted by the same means and taken off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from nntrain import (
    Cancel,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Learner,
    Sink,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    batch_step,
    epoch_step,
    fit_step,
)
from nntrain.subscribers.protocol import AnswerBatch
from nntrain.values.output import BatchOutput
from nntrain.values.record import evolved
from tests.laws.strategies import Batch, Loaders

WEIGHT: Final = (37, 23)
"""A shape that nothing else in these trainings has."""

OPTIMIZERS: Final[Mapping[str, tuple[Callable[..., torch.optim.Optimizer], int]]] = {
    "sgd": (torch.optim.SGD, 1),
    "momentum": (functools.partial(torch.optim.SGD, momentum=0.9), 2),
    "adam": (torch.optim.Adam, 3),
    "amsgrad": (functools.partial(torch.optim.AdamW, amsgrad=True), 4),
    "momentum, foreach": (functools.partial(torch.optim.SGD, momentum=0.9, foreach=True), 2),
}
"""With each, how many tensors of the weight's shape one value of the training has: the weight and its moments."""


class CountCopies(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's __init_subclass__
    """Counts the tensors of the weight's shape that are cloned or copied while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        name = str(func)
        if any(word in name for word in ("clone", "copy", "detach_copy", "lift_fresh")):
            first = args[0] if args else None
            for tensor in first if isinstance(first, (list, tuple)) else [first]:
                if isinstance(tensor, Tensor) and tuple(tensor.shape) == WEIGHT:
                    self.count += 1
        return func(*args, **(kwargs or {}))


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(WEIGHT[1], WEIGHT[0]), nn.BatchNorm1d(WEIGHT[0]), nn.Linear(WEIGHT[0], 3))


def make_batches(count: int) -> list[Batch]:
    return [(torch.randn(4, WEIGHT[1]), torch.tensor([0, 1, 2, 0])) for _ in range(count)]


def make_learner(
    optimizer: str, train: int, valid: int, subs: list[Subscriber[Batch]], sinks: list[Sink], device: torch.device
) -> Learner[Batch]:
    return Learner(
        make_model(),
        Loaders(make_batches(train), make_batches(valid)),
        cross_entropy,
        accuracy,
        OPTIMIZERS[optimizer][0],
        0.01,
        subs,
        sinks=sinks,
        device=device,
    )


def by_hand(optimizer: str, train: int, epochs: int, device: torch.device) -> int:
    """Count the copies of the hand-written loop after its first batch."""
    model = make_model().to(device)
    stepper = OPTIMIZERS[optimizer][0](model.parameters(), lr=0.01)
    copies, after_first = CountCopies(), None
    with copies:
        for _ in range(epochs):
            for inputs, target in make_batches(train):
                cross_entropy(model(inputs.to(device)), target.to(device)).backward()  # type: ignore[no-untyped-call] # torch's
                stepper.step()
                stepper.zero_grad()
                after_first = copies.count if after_first is None else after_first
    assert after_first is not None
    return copies.count - after_first


class Looks(Subscriber[Batch]):
    """A pure subscriber: looks at places and numbers, keeps nothing."""

    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        return state

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        return state if state.progress.step else state.model_copy()


class Counting:
    """Marks the count at the end of the first batch, and keeps the states of chosen transitions."""

    def __init__(self, copies: CountCopies, keep: frozenset[int] = frozenset()) -> None:
        self._copies = copies
        self._keep = keep
        self._seen = 0
        self.after_first: int | None = None
        self.kept: list[TrainState] = []

    def __call__(self, transition: Transition, /) -> None:
        if transition.output is not None and self.after_first is None:
            self.after_first = self._copies.count
        elif self.after_first is not None:
            if self._seen in self._keep:
                self.kept.append(transition.state)
            self._seen += 1


@pytest.mark.parametrize("name", ["advance", "batch_step", "epoch_step", "fit_step"])
def test_a_state_that_is_handed_over_and_not_kept_is_not_copied(name: str, device: torch.device) -> None:
    learner = make_learner("sgd", 3, 2, [], [], device)
    batch = make_batches(1)[0]
    cell = [learner.init(epochs=9)]
    copies = CountCopies()
    with copies:
        for number in range(20):
            if number == 10:  # the looks at first passes are over
                copies.count = 0
            if name == "advance":
                cell.append(advance(learner, cell.pop()).state)
            elif name == "batch_step":
                cell.append(batch_step(learner, cell.pop(), batch).state)
            elif name == "epoch_step":
                cell.append(epoch_step(learner, cell.pop()).state)
            else:
                cell.append(fit_step(learner, cell.pop(), epochs=number + 1).state)
    assert copies.count == 0


@given(
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    train=st.integers(1, 4),
    valid=st.integers(1, 2),
    epochs=st.integers(1, 3),
    listening=st.booleans(),
)
def test_no_copy_where_nobody_keeps_a_state(
    device: torch.device, optimizer: str, train: int, valid: int, epochs: int, listening: bool
) -> None:
    copies = CountCopies()
    sink = Counting(copies)
    learner = make_learner(optimizer, train, valid, [Looks()] if listening else [], [sink], device)
    with copies:
        outcome = learner.fit(epochs, print_stats=False)
    assert outcome.state.progress.epoch == epochs
    assert sink.after_first is not None
    assert copies.count - sink.after_first == by_hand(optimizer, train, epochs, device)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_no_copy_where_nobody_looks(device: torch.device, optimizer: str) -> None:
    """Without any sink or subscriber, two epochs more make the copies that two epochs more by hand make."""

    def copies_of(epochs: int) -> int:
        learner = make_learner(optimizer, 3, 2, [], [], device)
        copies = CountCopies()
        with copies:
            learner.fit(epochs, print_stats=False)
        return copies.count

    more_by_hand = by_hand(optimizer, 3, 3, device) - by_hand(optimizer, 3, 1, device)
    assert copies_of(3) - copies_of(1) == more_by_hand


@given(
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    train=st.integers(1, 4),
    valid=st.integers(1, 2),
    epochs=st.integers(1, 3),
    keep=st.frozensets(st.integers(0, 20), max_size=6),
)
def test_one_copy_for_each_kept_value(
    device: torch.device, optimizer: str, train: int, valid: int, epochs: int, keep: frozenset[int]
) -> None:
    """One set per kept value that is overwritten; states between two optimizer steps share theirs."""
    copies = CountCopies()
    sink = Counting(copies, keep)
    learner = make_learner(optimizer, train, valid, [], [sink], device)
    with copies:
        fit_step(learner, learner.init(0), epochs)
    assert sink.after_first is not None
    overwritten = {state.progress.step for state in sink.kept} - {train * epochs}
    made = copies.count - sink.after_first - by_hand(optimizer, train, epochs, device)
    assert made == len(overwritten) * OPTIMIZERS[optimizer][1]


@pytest.mark.parametrize("keep", [False, True])
def test_the_live_tensors_stay_the_same_memory(device: torch.device, keep: bool) -> None:
    """Their identity never changes: what nntrain writes, it writes in place."""
    places: set[int] = set()
    states: list[TrainState] = []

    def sink(transition: Transition) -> None:
        if transition.output is not None:
            with transition.state.borrow() as tensors:
                places.add(tensors["0.weight"].data_ptr())
            if keep:
                states.append(transition.state)

    learner = make_learner("adam", 3, 1, [], [sink], device)
    learner.fit(2, print_stats=False)
    assert len(places) == 1


class GoesBack(Subscriber[Batch]):
    """Does not want the write of batch `unwanted`: answers with the state from before it, and holds no other."""

    def __init__(self, unwanted: int, verdict: type[CancelBatch | CancelEpoch | CancelFit] | None) -> None:
        self.unwanted, self.verdict = unwanted, verdict
        self.before: list[TrainState] = []

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        if (state.progress.phase, state.progress.batch) == ("train", self.unwanted):
            self.before.append(state)
        return state

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState | Cancel:
        if not self.before or state.progress.batch != self.unwanted + 1:
            return state
        moved = evolved(state.progress, step=self.unwanted)
        del state
        back = evolved(self.before.pop(), progress=moved)
        return back if self.verdict is None else self.verdict(state=back)


@pytest.mark.parametrize("verdict", [None, CancelBatch, CancelEpoch, CancelFit])
@pytest.mark.parametrize("unwanted", [0, 2, 3])
def test_a_write_that_an_answer_does_not_want_is_never_made(
    unwanted: int, verdict: type[CancelBatch | CancelEpoch | CancelFit] | None, device: torch.device
) -> None:
    steps: list[int] = []

    class Counted(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            steps.append(1)
            return super().step(closure)

    learner = make_learner("sgd", 4, 1, [GoesBack(unwanted, verdict)], [], device).replace(optim_class=Counted)
    learner.fit(1, print_stats=False)  # what a first forward pass writes is looked at by copies
    steps.clear()
    cell, copies = [learner.init(epochs=1)], CountCopies()
    with copies:
        state = fit_step(learner, cell.pop()).state
    taken = 3 if verdict in {None, CancelBatch} else unwanted
    assert (len(steps), copies.count) == (taken, 0)
    assert state.progress.step == taken


def test_the_counter_counts() -> None:
    """A copy, however it is made, is seen."""
    weight, other = torch.zeros(WEIGHT), torch.zeros(WEIGHT)
    with CountCopies() as copies:
        weight.clone()
        weight.copy_(other)
        torch._foreach_copy_([weight, other], [other, weight])  # pyright: ignore[reportPrivateImportUsage] # torch's own name
        torch.zeros(3).clone()
    assert copies.count == 4
