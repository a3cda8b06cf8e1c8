"""Law 6, cancel: the published events and printed lines are the seed's, for any subscribers and any verdicts.

A program is a list of subscribers. Each listens to some events and counts the calls of each; at chosen counts
it cancels some scope that runs. The same program runs in nntrain and in the seed's loop (`tests.seed_loop`).
"""

from __future__ import annotations

import copy
import functools
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, assert_never, cast

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Cancelled,
    Completed,
    Learner,
    PrintStats,
    Slot,
    Subscriber,
    TrainState,
    accuracy,
    fit_step,
)
from nntrain.subscribers.protocol import EVENTS, AnswerBatch, AnswerEpoch, AnswerFit
from nntrain.values.output import BatchOutput
from nntrain.values.verdicts import Event
from tests import seed_loop
from tests.laws.strategies import Batch, Loaders

Scope = Literal["batch", "epoch", "fit"]


def weighted(batch: int, epoch: int, fit: int) -> tuple[Scope, ...]:
    """Name each scope as often as it is to be drawn."""
    weights: dict[Scope, int] = {"batch": batch, "epoch": epoch, "fit": fit}
    return tuple(scope for scope, weight in weights.items() for _ in range(weight))


SCOPES: Final[Mapping[Event, tuple[Scope, ...]]] = {
    "before_fit": weighted(0, 0, 1),
    "before_epoch": weighted(0, 9, 1),
    "before_batch": weighted(7, 4, 1),
    "after_batch": weighted(7, 4, 1),
    "after_epoch": weighted(0, 9, 1),
    "after_fit": weighted(0, 0, 1),
}
"""What may be cancelled at each event; inner scopes more often, so that long traces are drawn too."""

SIZES: Final = ((2, 2), (3, 3, 1), (2, 2, 2, 1))
optim_class: Final = functools.partial(torch.optim.SGD, momentum=0.5)


class Answer(NamedTuple):
    """A planned cancel. `counted`: the verdict brings a state in which the call is counted; else it brings none."""

    scope: Scope
    counted: bool


@dataclass(frozen=True)
class Plan:
    """One subscriber: to what it listens, and at which count of an event it cancels what."""

    name: str
    order: int
    listens: tuple[Event, ...]
    answers: Mapping[tuple[Event, int], Answer]


class Call(NamedTuple):
    """One entry of the trace. Outside an epoch, or a batch, there is no position in it."""

    name: str
    event: str
    step: int
    epoch: int | None
    phase: str | None
    batch: int | None
    samples: int | None
    cancels: Scope | None


# -- the program in nntrain ---------------------------------------------------------------------------------------


class Calls(BaseModel, frozen=True):
    """How often each event was heard."""

    counts: tuple[int, ...] = (0,) * len(EVENTS)


class Planned(Subscriber[Batch]):
    """A plan as a subscriber. Its counts stand in a slot; the trace is the test's."""

    def __init__(self, plan: Plan, trace: list[Call]) -> None:
        self.name = plan.name
        self.order = plan.order
        self._plan = plan
        self._trace = trace
        self._slot = Slot(f"law6.{plan.name}", Calls, default=Calls())

    def _answer(self, now: Event, state: TrainState) -> AnswerBatch:
        counts = state.get(self._slot).counts
        index = EVENTS.index(now)
        plan = self._plan.answers.get((now, counts[index]))
        place = state.progress
        in_fit = now.endswith("fit")
        in_batch = now.endswith("batch")
        self._trace.append(
            Call(
                self.name,
                now,
                place.step,
                None if in_fit else place.epoch,
                None if in_fit else place.phase,
                # after_batch sees this batch behind it
                (place.batch - (now == "after_batch")) if in_batch else None,
                None if in_fit else place.samples,
                plan.scope if plan is not None else None,
            )
        )
        counted = tuple(count + (number == index) for number, count in enumerate(counts))
        if plan is None:
            return state.put(self._slot, Calls(counts=counted))
        onward = state.put(self._slot, Calls(counts=counted)) if plan.counted else None
        match plan.scope:
            case "batch":
                return CancelBatch(reason="planned", state=onward)
            case "epoch":
                return CancelEpoch(reason="planned", state=onward)
            case "fit":
                return CancelFit(reason="planned", state=onward)
            case _:
                assert_never(plan.scope)


def _before_fit(self: Planned, state: TrainState) -> AnswerFit:
    return cast("AnswerFit", self._answer("before_fit", state))


def _after_fit(self: Planned, state: TrainState) -> AnswerFit:
    return cast("AnswerFit", self._answer("after_fit", state))


def _before_epoch(self: Planned, state: TrainState) -> AnswerEpoch:
    return cast("AnswerEpoch", self._answer("before_epoch", state))


def _after_epoch(self: Planned, state: TrainState) -> AnswerEpoch:
    return cast("AnswerEpoch", self._answer("after_epoch", state))


def _before_batch(self: Planned, state: TrainState, batch: Batch) -> AnswerBatch:
    return self._answer("before_batch", state)


def _after_batch(self: Planned, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
    assert not output.loss.requires_grad
    assert isinstance(output.preds, Tensor)
    assert not output.preds.requires_grad
    return self._answer("after_batch", state)


METHODS: Final[Mapping[Event, Callable[..., object]]] = {
    "before_fit": _before_fit,
    "after_fit": _after_fit,
    "before_epoch": _before_epoch,
    "after_epoch": _after_epoch,
    "before_batch": _before_batch,
    "after_batch": _after_batch,
}


@functools.cache
def planned_class(listens: tuple[Event, ...]) -> type[Planned]:
    """Make the class that overrides just these events, so that not listening is tried too."""
    return cast("type[Planned]", type("PlannedFor", (Planned,), {event: METHODS[event] for event in listens}))


# -- the program in the seed's loop -------------------------------------------------------------------------------


class SeedPlanned:
    """A plan as a subscriber of the seed's learner: it counts in itself, and cancels by exception."""

    def __init__(self, plan: Plan, trace: list[Call]) -> None:
        self.order = plan.order
        self._plan = plan
        self._trace = trace
        self._counts: Counter[Event] = Counter()
        for now in plan.listens:
            setattr(self, now, functools.partial(self._answer, now))

    def _answer(self, now: Event, learner: seed_loop.Learner) -> None:
        plan = self._plan.answers.get((now, self._counts[now]))
        in_fit = now.endswith("fit")
        in_batch = now.endswith("batch")
        self._trace.append(
            Call(
                self._plan.name,
                now,
                learner.step,
                None if in_fit else learner.epoch,
                None if in_fit else learner.phase,
                learner.batch_index if in_batch else None,
                None if in_fit else learner.samples,
                plan.scope if plan is not None else None,
            )
        )
        if plan is None or plan.counted:
            self._counts[now] += 1
        if plan is not None:
            raise seed_loop.CANCELS[plan.scope]


# -- both ---------------------------------------------------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, ...]:
    """Draw the subscribers of one program. Few cancel at the fit's own events: that would end most programs at once."""
    found: list[Plan] = []
    for number in range(draw(st.integers(0, 4))):
        mask = draw(st.integers(1, 63))
        listens: tuple[Event, ...] = tuple(now for bit, now in enumerate(EVENTS) if mask >> bit & 1)
        inner: list[Event] = [now for now in listens if not now.endswith("fit")]
        cancelling: Sequence[Event] = listens if draw(st.integers(0, 9)) == 5 else inner
        answers: dict[tuple[Event, int], Answer] = {}
        for _ in range(draw(st.integers(0, 4)) if cancelling else 0):
            now: Event = draw(st.sampled_from(cancelling))
            occurrence = draw(st.integers(0, 0 if now.endswith("fit") else 5 if now.endswith("epoch") else 12))
            answers[now, occurrence] = Answer(draw(st.sampled_from(SCOPES[now])), draw(st.booleans()))
        found.append(Plan(f"s{number}", draw(st.integers(-1, 1)), listens, answers))
    return tuple(found)


def model() -> nn.Module:
    """Make the model; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(3, 2)


@functools.cache
def batches(sizes: tuple[int, ...], seed: int) -> tuple[Batch, ...]:
    """Make the batches; the same each time."""
    source = torch.Generator().manual_seed(seed)
    return tuple(
        (torch.randn(size, 3, generator=source), torch.randint(0, 2, (size,), generator=source)) for size in sizes
    )


def on(device: torch.device, data: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """Move batches, for the loop that does not."""
    return tuple((inputs.to(device), target.to(device)) for inputs, target in data)


Sizes = tuple[int, ...]


def sets_of(
    valid: Sizes | Mapping[str, Sizes] | None, change: Callable[[tuple[Batch, ...]], tuple[Batch, ...]]
) -> tuple[Batch, ...] | dict[str, tuple[Batch, ...]] | None:
    """Make what is evaluated."""
    if isinstance(valid, Mapping):
        return {name: change(batches(sizes, 2)) for name, sizes in valid.items()}
    return None if valid is None else change(batches(valid, 2))


def seed_metric(preds: Tensor, target: Tensor) -> Tensor:
    """Count the right ones, per sample."""
    return (preds.argmax(1) == target).float().mean()


drawn_programs = given(
    program=plans(),
    epochs=st.sampled_from([3, 2, 1, 0, 3, 2]),
    train=st.sampled_from(SIZES),
    valid=st.sampled_from([SIZES[0], SIZES[1], SIZES[2], SIZES[1], None, {"near": SIZES[0], "far, too": SIZES[1]}]),
    steps=st.sampled_from([None, None, None, 1, 4, 7]),
)


def same_trace_lines_and_weights_as_the_seed(
    device: torch.device,
    program: tuple[Plan, ...],
    epochs: int,
    *,
    train: Sizes,
    valid: Sizes | Mapping[str, Sizes] | None,
    steps: int | None,
) -> None:
    if any(not answer.counted for plan in program for answer in plan.answers.values()):
        steps = None  # a verdict that is given again and again lets no step be taken
    seeds_model, seeds_file, seeds_trace = model(), io.StringIO(), list[Call]()
    seeds = seed_loop.Learner(
        seeds_model.to(device),
        on(device, batches(train, 1)),
        sets_of(valid, functools.partial(on, device)),
        loss_fn=cross_entropy,
        metric_fn=seed_metric,
        optim_class=optim_class,
        lr=0.1,
        subs=[SeedPlanned(plan, seeds_trace) for plan in program],
        file=seeds_file,
    )
    seeds.fit(epochs, steps)

    file, trace = io.StringIO(), list[Call]()
    learner = Learner(
        model(),
        Loaders(batches(train, 1), sets_of(valid, tuple)),
        cross_entropy,
        accuracy,
        optim_class,
        0.1,
        [planned_class(plan.listens)(plan, trace) for plan in program],
        sinks=[PrintStats(file=file)],
        device=device,
    )
    outcome = fit_step(learner, learner.init(0), epochs if steps is None else None, steps=steps)

    assert trace == seeds_trace
    assert file.getvalue() == seeds_file.getvalue()
    for name, tensor in seeds_model.named_parameters():
        assert torch.equal(outcome.state.params[name], tensor), name
    history = [(one.epoch, one.phase, one.loss, one.metrics["metric"], one.samples) for one in outcome.state.history]
    assert history == seeds.history

    last = seeds_trace[-1].cancels if seeds_trace else None
    match outcome:
        case Cancelled():
            assert last == outcome.verdict.scope == "fit"
            assert (outcome.by, outcome.event) == (seeds_trace[-1].name, seeds_trace[-1].event)
        case Completed():
            assert last != "fit"
            place = outcome.state.progress
            assert place.epoch == epochs if steps is None else place.step == steps
        case _:
            assert_never(outcome)
    assert outcome.state.progress.at == "finished"
    assert outcome.state.progress.step == seeds.step
    for scope in {call.cancels for call in trace} - {None}:
        event(f"cancels {scope}")


test_same_trace_lines_and_weights_as_the_seed = settings(max_examples=200)(
    drawn_programs(same_trace_lines_and_weights_as_the_seed)
)
test_same_trace_lines_and_weights_as_the_seed_in_2000_programs = pytest.mark.sweep(
    settings(max_examples=2000)(drawn_programs(same_trace_lines_and_weights_as_the_seed))
)


def test_the_oracle_itself_cancels_scope_by_scope() -> None:
    """What the seed's text says, spelt out once by hand, so that both sides cannot be wrong together."""
    trace: list[str] = []

    class Shout:
        order = 0

        def before_epoch(self, learner: seed_loop.Learner) -> None:
            trace.append(f"before_epoch {learner.epoch} {learner.phase}")
            if (learner.epoch, learner.phase) == (1, "train"):
                raise seed_loop.CancelEpochException
            if (learner.epoch, learner.phase) == (2, "train"):
                raise seed_loop.CancelFitException

        def before_batch(self, learner: seed_loop.Learner) -> None:
            trace.append("before_batch")
            if learner.batch_index == 0:
                raise seed_loop.CancelBatchException

        def after_batch(self, learner: seed_loop.Learner) -> None:
            trace.append("after_batch")

        def after_epoch(self, learner: seed_loop.Learner) -> None:
            trace.append("after_epoch")

        def after_fit(self, learner: seed_loop.Learner) -> None:
            trace.append("after_fit")

    file = io.StringIO()
    data = copy.deepcopy(batches((2, 1), 1))
    learner = seed_loop.Learner(
        model(),
        data,
        data,
        loss_fn=cross_entropy,
        metric_fn=seed_metric,
        optim_class=optim_class,
        lr=0.1,
        subs=[Shout()],
        file=file,
    )
    learner.fit(4)
    phase = ["before_batch", "before_batch", "after_batch", "after_epoch"]
    assert trace == [
        "before_epoch 0 train",
        *phase,
        "before_epoch 0 eval",
        *phase,
        "before_epoch 1 train",
        "before_epoch 1 eval",
        *phase,
        "before_epoch 2 train",
    ]
    assert [line[:16] for line in file.getvalue().splitlines()] == [
        "epoch=00 | train",
        "epoch=00 | eval ",
        "epoch=01 | eval ",
    ]
    assert learner.history[0][-1] == 1
