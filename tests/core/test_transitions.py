"""What sinks are shown: all, the places they ask for, or without the batches that merely ran."""

from __future__ import annotations

from collections.abc import Sequence
from types import new_class
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from nntrain import (
    BatchOutput,
    CancelBatch,
    CancelEpoch,
    DataLoaders,
    Learner,
    LogEvent,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    fit_step,
    state_before,
)
from nntrain.errors import ConfigError, NNTrainError, SinkWarning
from nntrain.transitions import BatchRan, RunInfo

Batch = tuple[Tensor, Tensor]
DATA = [(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))] * 4


class Seen:
    """Remembers where it was told of what."""

    def __init__(self, **wishes: Any) -> None:
        self.transitions: list[tuple[str, str, int]] = []
        vars(self).update(wishes)

    def __call__(self, transition: Transition) -> None:
        place = transition.progress
        self.transitions.append((transition.at, place.phase, place.batch))


class Second(Subscriber[Batch]):
    """Cancels the second batch of each phase."""

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState | CancelBatch:
        return CancelBatch(reason="the second") if state.progress.batch == 1 else state


def learner_of(*sinks: Seen, subs: list[Subscriber[Batch]] | None = None) -> Learner[Batch]:
    return Learner(
        nn.Linear(3, 2),
        DataLoaders(DATA, DATA),
        nn.functional.cross_entropy,
        accuracy,
        torch.optim.SGD,
        0.1,
        subs or [],
        sinks=sinks,
    )


def batches_seen(seen: Seen) -> list[tuple[str, int]]:
    return [(phase, batch) for at, phase, batch in seen.transitions if at == "batch"]


EVERY = [(phase, batch) for phase in ("train", "eval") for batch in range(5)]
"""The fifth is the one that finds the end, with the phase's statistics."""


def test_a_sink_is_shown_every_batch_unless_it_says_otherwise() -> None:
    all_of_them, ends = Seen(), Seen(every_batch=False)
    learner_of(all_of_them, ends).fit(1, print_stats=False)
    assert batches_seen(all_of_them) == EVERY
    assert batches_seen(ends) == [("train", 4), ("eval", 4)]
    assert [one for one in all_of_them.transitions if one[0] != "batch"] == [
        one for one in ends.transitions if one[0] != "batch"
    ]


def test_a_cancelled_batch_is_shown_to_all() -> None:
    ends = Seen(every_batch=False)
    learner_of(ends, subs=[Second()]).fit(1, print_stats=False)
    assert batches_seen(ends) == [("train", 1), ("train", 4), ("eval", 1), ("eval", 4)]


def test_the_batch_that_a_step_begins_with_is_shown_to_all() -> None:
    """So that a log of a run that goes on amid a phase begins when the run does."""
    ends = Seen(every_batch=False)
    learner = learner_of(ends)
    state = learner.init(epochs=1)
    while state.progress.batch < 2:
        state = advance(learner, state).state
    ends.transitions.clear()
    fit_step(learner, state)
    assert batches_seen(ends) == [("train", 2), ("train", 4), ("eval", 4)]


@pytest.mark.parametrize("every", [1, 2, 3, 4, 5])
def test_a_sink_may_ask_for_every_so_manyth_batch(every: int) -> None:
    some, more = Seen(every_batch=every), Seen(every_batch=2)
    learner_of(some, more).fit(1, print_stats=False)
    # the first four batches of a phase are its 1st to 4th; the fifth place has its statistics
    assert batches_seen(some) == [(phase, batch) for phase, batch in EVERY if batch == 4 or (batch + 1) % every == 0]
    assert batches_seen(more) == [(phase, batch) for phase, batch in EVERY if batch in {1, 3, 4}]


class Grouped(Seen):
    """Takes batches that merely ran in groups."""

    def __init__(self, **wishes: Any) -> None:
        super().__init__(**wishes)
        self.groups: list[list[BatchRan]] = []
        self.run: RunInfo | None = None

    def batches(self, run: RunInfo, ran: Sequence[BatchRan]) -> None:
        self.run = run
        self.groups.append(list(ran))


def test_a_sink_may_take_batches_in_groups() -> None:
    grouped, every_second, single = Grouped(), Grouped(every_batch=2), Seen(every_batch=3)
    kept: list[TrainState] = []
    learner = learner_of(grouped, every_second)
    learner.replace(sinks=[grouped, every_second, lambda transition: kept.append(transition.state)]).fit(1)
    assert grouped.groups == [], "a sink that wants each state has each told on its own"
    learner.fit(1, print_stats=False)
    ran = [one for group in grouped.groups for one in group]
    assert [(one.phase, one.batch, one.step, one.samples) for one in ran] == [
        *[("train", batch, batch, 2 * batch) for batch in range(1, 5)],
        *[("eval", batch, 4, 2 * batch) for batch in range(1, 5)],
    ]
    assert [one for group in every_second.groups for one in group] == [one for one in ran if one.batch % 2 == 0]
    assert [one.when for one in ran] == sorted(one.when for one in ran)
    assert all(float(one.loss) > 0 and set(one.metrics) == {"metric"} for one in ran)
    assert grouped.run is not None
    assert (grouped.run.lr_at(7), grouped.run.seed) == (0.1, 0)
    grouped.groups.clear()
    learner_of(grouped, single).fit(1, print_stats=False)
    assert [[one.batch for one in group] for group in grouped.groups] == [[1, 2], [4]] * 2
    assert batches_seen(single) == [("train", 2), ("train", 4), ("eval", 2), ("eval", 4)]


def test_groups_are_told_before_what_comes_after_them() -> None:
    """A failure comes after the batches that ran."""
    order: list[str] = []

    class Tells(Grouped):
        def __call__(self, transition: Transition) -> None:
            order.append("failure" if transition.error else transition.at)

        def batches(self, run: RunInfo, ran: Sequence[BatchRan]) -> None:
            order.append(f"{len(ran)} batches")

    broken = [*DATA[:2], (torch.ones(2, 7), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(RuntimeError):
        learner_of(Tells()).replace(dls=DataLoaders(broken, DATA)).fit(1, print_stats=False)
    assert order == ["before_fit", "before_epoch", "2 batches", "failure"]


def test_a_sink_that_fails_on_a_group_ends_no_training_unless_it_is_strict() -> None:
    class Fails(Grouped):
        def batches(self, run: RunInfo, ran: Sequence[BatchRan]) -> None:
            raise RuntimeError("no group")

    with pytest.warns(SinkWarning, match="no group"):
        outcome = learner_of(Fails()).fit(1, print_stats=False)
    assert outcome.sink_failures == {"Fails": 2}
    with pytest.raises(RuntimeError, match="no group") as caught:
        learner_of(Fails(strict=True)).fit(1, print_stats=False)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.batch == 4


def test_an_output_has_the_batchs_own_metrics() -> None:
    outputs: list[BatchOutput] = []

    def metrics(transition: Transition) -> None:
        if transition.output is not None:
            outputs.append(transition.output)

    learner = learner_of().replace(sinks=[metrics], metric_fn={"one": lambda p, t: 1, "acc": accuracy})
    stats = learner.fit(1, print_stats=False).state.history[0]
    assert [output.metrics["one"] for output in outputs[:4]] == [1.0] * 4
    assert sum(float(output.metrics["acc"]) for output in outputs[:4]) / 4 == stats.metrics["acc"]


class Said(LogEvent, frozen=True):
    """An event of a test's own."""

    event: Literal["transitions.said"] = "transitions.said"
    what: str


def test_events_of_a_subscribers_own_are_shown_once_and_stay_in_no_state() -> None:
    told: list[tuple[str, tuple[LogEvent, ...]]] = []
    seen: list[tuple[LogEvent, ...]] = []

    class Says(Subscriber[Batch]):
        def before_epoch(self, state: TrainState) -> TrainState | CancelEpoch:
            state = state.log(Said(what="before"))
            return CancelEpoch(state=state.log(Said(what="no"))) if state.progress.phase == "eval" else state

        def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
            return state.log(Said(what="first")) if state.progress.batch == 2 else state

        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
            seen.append(state.logged)
            return state.log(Said(what="second")) if state.progress.batch == 3 else state

    class Tells:
        every_batch = False

        def __call__(self, transition: Transition) -> None:
            assert transition.state.logged == ()
            if transition.logged:
                told.append((transition.at, transition.logged))

    outcome = learner_of(subs=[Says()]).replace(sinks=[Tells()]).fit(1, print_stats=False)
    assert outcome.state.logged == ()
    assert told == [
        ("before_epoch", (Said(what="before"),)),
        ("batch", (Said(what="first"), Said(what="second"))),
        ("before_epoch", (Said(what="before"), Said(what="no"))),
    ]
    assert seen == [(), (), (Said(what="first"),), ()]
    plain = learner_of().replace(model=outcome.state.to_module())
    assert fit_step(plain, plain.init(), 1).state.logged == ()


@pytest.mark.parametrize("given", ["text", {"event": "a.b"}, None, Said])
def test_what_is_no_event_cannot_be_logged(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"state.log takes a LogEvent; got .* Make a class of yours: class Mixup"):
        learner_of().init().log(given)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("undotted", {}, "an event's name is dotted and in lower case, like 'acme.made'"),
        ("Upper.Case", {}, "an event's name is dotted and in lower case"),
        ("transitions.made", {"step": int}, "has the field 'step', which every line of a log has already"),
        ("transitions.said", {}, "both have the name 'transitions.said'"),
    ],
)
def test_a_class_of_events_that_cannot_be_meant_is_refused_when_it_is_made(
    name: str, fields: dict[str, Any], said: str
) -> None:
    made = {"__annotations__": {"event": Literal[name], **fields}, "event": name, "__module__": __name__}
    with pytest.raises(ConfigError, match=said):
        new_class("Made", (LogEvent,), exec_body=lambda body: body.update(made))


def test_a_failure_is_shown_to_all_where_it_happened() -> None:
    ends = Seen(every_batch=False, places=frozenset({"after_fit"}))
    broken = [*DATA[:2], (torch.ones(2, 7), torch.zeros(2, dtype=torch.long))]
    learner = learner_of(ends).replace(dls=DataLoaders(broken, DATA))
    try:
        learner.fit(1, print_stats=False)
    except (RuntimeError, NNTrainError):
        assert ends.transitions == [("batch", "train", 2)]
    else:
        raise AssertionError("the third batch does not fit the model")


@pytest.mark.parametrize("every", [-1, 0.5, "all", None])
def test_an_interval_that_is_none_is_refused_at_once(every: Any) -> None:
    with pytest.raises(ConfigError, match=r"The sink Seen has every_batch .*; expected True, False, or a whole number"):
        learner_of(Seen(every_batch=every))


@pytest.mark.parametrize("places", [5, None, "batch", ["nowhere"]])
def test_places_that_are_none_are_refused_at_once(places: Any) -> None:
    with pytest.raises(ConfigError, match=r"The sink Seen has places .*; expected a set of some of before_fit"):
        learner_of(Seen(places=places))
