"""Law 8, observers are free: sinks, and subscribers that return their state unchanged, change no bit."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nntrain import Interest, Learner, PrintStats, Sink, Subscriber, TrainState, Transition, fit_step
from nntrain.errors import SinkWarning
from nntrain.log import JsonLog
from nntrain.sinks.transition import BatchRan, RunInfo
from nntrain.subscribers.protocol import AnswerBatch, AnswerEpoch, AnswerFit, on
from nntrain.values.output import BatchOutput
from tests.laws.strategies import Batch, Setup, setups


class Passes(Subscriber[Batch]):
    """Listens to all and returns what it sees; some draw random numbers or read the weights meanwhile."""

    def __init__(self, order: int, what: str) -> None:
        self.order = order
        self.what = what

    def _look(self, state: TrainState) -> None:
        match self.what:
            case "draws":
                torch.rand(3)
            case "reads":
                dict(state.params), dict(state.buffers)
            case "borrows":
                with state.borrow() as tensors:
                    sum(float(tensor.float().sum()) for tensor in tensors.values())
            case "copies":
                copy.deepcopy(state)
            case _:
                pass

    def before_fit(self, state: TrainState) -> AnswerFit:
        self._look(state)
        return state

    def after_fit(self, state: TrainState) -> AnswerFit:
        self._look(state)
        return state

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        self._look(state)
        return state

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        self._look(state)
        return state

    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        self._look(state)
        return state

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        self._look(state)
        return state


class PassesEqual(Passes):
    """Returns an equal state that is not the same object."""

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        return state.model_copy()

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        return state.model_copy()


@on("after_epoch", order=-5)
def passing_function(state: TrainState) -> TrainState:
    return state


class KeepsAll:
    """Keeps every state."""

    def __init__(self) -> None:
        self.states: list[TrainState] = []

    def __call__(self, transition: Transition, /) -> None:
        self.states.append(transition.state)


def reads(transition: Transition) -> None:
    """Read all there is, and draw from the generators."""
    torch.rand(2)
    repr(transition.state)
    transition.state.model_dump_json()
    for tensor in transition.state.params.values():
        tensor.zero_()
    transition.state.to_module()


class OnlyEpochs:
    """Asks for some places only."""

    interest = Interest(places=frozenset({"after_epoch"}))

    def __call__(self, transition: Transition, /) -> None:
        assert transition.at == "after_epoch"


class Groups:
    """Takes batches in groups, and writes to what it is handed."""

    def __init__(self, every: int) -> None:
        self.interest = Interest(every_batch=every, batches=self.batches)

    def __call__(self, transition: Transition, /) -> None:
        torch.rand(2)

    def batches(self, run: RunInfo, ran: Sequence[BatchRan], /) -> None:
        torch.rand(2)
        for one in ran:
            for value in (one.loss, *one.metrics.values()):
                if isinstance(value, Tensor):
                    value.zero_()


def passes(what: str) -> Callable[[], Subscriber[Batch]]:
    """Give what makes a passing subscriber, each with an order of its own."""
    return lambda: Passes(WHATS.index(what) - 2, what)


WHATS: Final = ("nothing", "draws", "reads", "borrows", "copies")
SUBSCRIBERS: Final[Mapping[str, Callable[[], Subscriber[Batch]]]] = {
    **{what: passes(what) for what in WHATS},
    "equal": lambda: PassesEqual(0, "nothing"),
    "deaf": Subscriber,
}
SINKS: Final[Mapping[str, Callable[[], Sink]]] = {
    "keeps": KeepsAll,
    "reads": lambda: reads,
    "epochs": OnlyEpochs,
    "prints": lambda: PrintStats(file=io.StringIO()),
    "groups": lambda: Groups(1),
    "every second": lambda: Groups(2),
    "log": lambda: JsonLog(io.StringIO(), every="all"),
}


@given(
    setup=setups(),
    epochs=st.integers(0, 2),
    subs=st.lists(st.sampled_from(sorted(SUBSCRIBERS)), max_size=4),
    sinks=st.lists(st.sampled_from(sorted(SINKS)), max_size=3),
)
def test_observers_change_no_bit(
    device: torch.device, setup: Setup, epochs: int, subs: list[str], sinks: list[str]
) -> None:
    setup = setup.on(device)
    bare = states_of(setup.learner(), epochs)
    watched = states_of(
        setup.learner([SUBSCRIBERS[name]() for name in subs], [SINKS[name]() for name in sinks]), epochs
    )
    assert watched == bare


def states_of(learner: Learner[Batch], epochs: int) -> list[TrainState]:
    """Give copies of all states of a fit."""
    states: list[TrainState] = []
    seen = learner.replace(sinks=[*learner.sinks, lambda one: states.append(copy.deepcopy(one.state))])
    outcome = fit_step(seen, seen.init(0), epochs)
    return [*states, outcome.state]


def test_a_plain_function_that_passes_changes_no_bit() -> None:
    setup = Setup(model="dropout")
    plain = Setup(model="dropout").learner().fit(2, print_stats=False)
    learner = setup.learner().replace(subs=[passing_function])
    assert learner.fit(2, print_stats=False) == plain


def test_a_failing_sink_changes_no_bit_and_is_counted() -> None:
    def fails(transition: Transition) -> None:
        raise OSError("disk full")

    plain = Setup(model="batch_norm").learner().fit(1, print_stats=False)
    learner = Setup(model="batch_norm").learner(sinks=[fails])
    with pytest.warns(SinkWarning, match="disk full"):
        outcome = learner.fit(1, print_stats=False)
    assert outcome.state == plain.state
    assert sum(outcome.sink_failures.values()) > 1
