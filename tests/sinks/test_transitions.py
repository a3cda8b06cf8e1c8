"""What sinks are shown: all, the places they ask for, or without the batches that merely ran."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import new_class
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from nntrain import (
    BatchOutput,
    BatchRan,
    CancelBatch,
    CancelEpoch,
    DataLoaders,
    Interest,
    Learner,
    LogEvent,
    RunInfo,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    fit_step,
    state_before,
)
from nntrain.errors import ConfigError, NNTrainError, SinkWarning
from nntrain.live.recorded import Recorded
from nntrain.values.bits import same_bits
from nntrain.values.progress import Phase
from tests.laws.strategies import finish
from tests.sampled import one_in

Batch = tuple[Tensor, Tensor]
DATA = [(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))] * 4


class Seen:
    """Remembers where it was told of what."""

    def __init__(self, **wishes: Any) -> None:
        self.transitions: list[tuple[str, str, int]] = []
        self.interest = Interest(**wishes)

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
        super().__init__(batches=self.batches, **wishes)
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

    one: Any = lambda p, t: 1  # noqa: E731 - a number where a tensor is due: what untyped callers may give
    learner = learner_of().replace(sinks=[metrics], metric_fn={"one": one, "acc": accuracy})
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
        interest = Interest(every_batch=False)

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
    with pytest.raises(ConfigError, match=r"every_batch is .*; expected True, False, or a whole number"):
        learner_of(Seen(every_batch=every))


@pytest.mark.parametrize("places", [5, None, "batch", ["nowhere"]])
def test_places_that_are_none_are_refused_at_once(places: Any) -> None:
    with pytest.raises(ConfigError, match=r"places is .*; expected a set of some of before_fit"):
        learner_of(Seen(places=places))


# -- events that sinks tell --------------------------------------------------------------------------------------------


class Told(LogEvent, frozen=True):
    """An event that a sink, or a thread, tells."""

    event: Literal["tests.told_by_sink"] = "tests.told_by_sink"
    what: str


class Hears(Seen):
    """Notes which events came with which transition."""

    def __init__(self, **wishes: Any) -> None:
        super().__init__(**wishes)
        self.heard: list[tuple[str, int, str]] = []
        self.errors: list[str] = []

    def __call__(self, transition: Transition) -> None:
        super().__call__(transition)
        place = transition.progress
        self.errors += [] if transition.error is None else [type(transition.error).__name__]
        at = "failure" if transition.error is not None else f"{place.phase} {transition.at}"
        self.heard += [(at, place.batch, event.what) for event in transition.logged if isinstance(event, Told)]


class Teller:
    """Tells an event at each transition that it is shown, unless `at` names others."""

    def __init__(self, *at: str, **wishes: Any) -> None:
        self.at = at
        self.run: RunInfo | None = None
        self.interest = Interest(**{"every_batch": False, **wishes})

    def __call__(self, transition: Transition) -> None:
        self.run = transition.run
        at = "failure" if transition.error is not None else transition.at
        if not self.at or at in self.at:
            transition.run.tell(Told(what=at))


class Listens(Subscriber[Batch]):
    """Has each batch stepped on its own."""

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        return state


listening = pytest.mark.parametrize("subs", [[], [Listens()]], ids=["fast", "listening"])
PLACES = ["before_fit", "before_epoch", "batch", "after_epoch", "before_epoch", "batch", "after_epoch", "after_fit"]


@listening
def test_what_a_sink_tells_comes_with_the_next_transition(subs: list[Subscriber[Batch]]) -> None:
    first, second, tells = Hears(), Hears(every_batch=False), Hears(tells=True)
    learner = learner_of(subs=subs).replace(sinks=[first, Teller("before_epoch", "after_epoch"), second, tells])
    learner.fit(1, print_stats=False)
    assert first.heard == [
        ("train batch", 0, "before_epoch"),
        ("eval before_epoch", 0, "after_epoch"),
        ("eval batch", 0, "before_epoch"),
        ("train after_fit", 0, "after_epoch"),
    ]
    assert second.heard == first.heard, "one that is not shown the batches that merely ran is shown that one"
    assert tells.heard == first.heard, "and one that is told before the others"


@listening
@pytest.mark.parametrize("hears_all", [False, True])
def test_one_that_tells_is_told_first_and_its_events_come_at_once(
    hears_all: bool, subs: list[Subscriber[Batch]]
) -> None:
    """Wherever it stands in the list."""
    first, second = Hears(every_batch=hears_all), Hears(every_batch=False)
    teller = Teller(tells=True, every_batch=False)
    learner = learner_of(subs=subs).replace(sinks=[first, teller, second])
    learner.fit(1, print_stats=False)
    assert [what for _, _, what in first.heard] == PLACES
    assert [at.split()[1] for at, _, _ in first.heard] == PLACES
    assert second.heard == first.heard
    assert first.heard[-1] == ("train after_fit", 0, "after_fit")


@listening
def test_one_that_tells_of_a_batch_has_all_shown_that_batch(subs: list[Subscriber[Batch]]) -> None:
    hears = Hears(every_batch=False)
    learner = learner_of(subs=subs).replace(sinks=[hears, Teller("batch", tells=True, every_batch=3)])
    learner.fit(1, print_stats=False)
    assert hears.heard == [(f"{phase} batch", batch, "batch") for phase in ("train", "eval") for batch in (2, 4)]


def told_in_batch(tell: Callable[[], None], *, count: int = 3) -> Iterator[Batch]:
    """Give batches, and tell something while the second is taken."""
    for index in range(count):
        if index == 1:
            tell()
        yield DATA[0]


class Telling:
    """Batches as a loader of one's own gives them, that calls `tell` within the second of each phase."""

    def __init__(self, tell: Callable[[], None], count: int = 4) -> None:
        self.tell = tell
        self.count = count

    def __iter__(self) -> Iterator[Batch]:
        return told_in_batch(self.tell, count=self.count)

    def __len__(self) -> int:
        return self.count


@listening
@pytest.mark.parametrize("every", one_in(3, [True, False, 3]))
def test_what_another_thread_tells_is_shown_within_the_next_batch(
    every: bool | int, subs: list[Subscriber[Batch]]
) -> None:
    """Not at the phase's end; and once, however many there are."""
    teller, hears, also = Teller("nowhere"), Hears(every_batch=every), Hears(every_batch=False)

    def tell() -> None:
        run = teller.run
        assert run is not None
        thread = threading.Thread(target=lambda: [*map(run.tell, [Told(what=what) for what in "012"])])
        thread.start()
        thread.join()

    learner = learner_of(subs=subs).replace(
        sinks=[teller, hears, also], dls=DataLoaders(Telling(tell, 200), Telling(tell, 5))
    )
    learner.fit(1, print_stats=False)
    assert [(at, what) for at, _, what in hears.heard] == [
        (f"{phase} batch", what) for phase in ("train", "eval") for what in "012"
    ]
    assert {batch for _, batch, _ in hears.heard} <= {1, 2}
    assert also.heard == hears.heard
    assert batches_seen(also) == [
        ("train", hears.heard[0][1]),
        ("train", 200),
        ("eval", hears.heard[3][1]),
        ("eval", 5),
    ]


def test_events_are_no_reason_to_leave_the_fast_path_where_nobody_wants_batches() -> None:
    """They come with what the sinks want next."""
    hears = Hears(places=frozenset({"after_epoch"}))
    learner = learner_of().replace(sinks=[Teller("before_epoch", places=frozenset({"before_epoch"})), hears])
    learner.fit(1, print_stats=False)
    assert hears.heard == [("train after_epoch", 4, "before_epoch"), ("eval after_epoch", 2 * 2, "before_epoch")]


def test_nothing_is_lost_or_repeated_whoever_tells_when() -> None:
    """Several threads tell as fast as they can; each sink hears each event once, in the order in which one told."""
    hears = [Hears(), Hears(every_batch=False), Hears(every_batch=7)]
    heard: list[str] = []
    stop = threading.Event()
    counts = [0, 0, 0]
    runs: list[RunInfo] = []

    def also(transition: Transition) -> None:
        heard.extend(event.what for event in transition.logged if isinstance(event, Told))

    def begin(transition: Transition) -> None:
        if transition.at == "before_fit" and not runs:
            runs.append(transition.run)
            for thread in threads:
                thread.start()
        if transition.at == "after_fit" and transition.progress.epochs == 2:
            stop.set()
            for thread in threads:
                thread.join()

    def work(number: int) -> None:
        while not stop.is_set():
            runs[0].tell(Told(what=f"{number} {counts[number]}"))
            counts[number] += 1
            stop.wait(0.0005 * (number + 1))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    dls = DataLoaders(DATA * 20, DATA * 5)
    learner = learner_of().replace(sinks=[begin, *hears, Grouped(), also], dls=dls)
    state = learner.fit(2, print_stats=False).state
    fit_step(learner, state, 1)  # what was told at the very end comes with the next fit
    expected = [[f"{number} {count}" for count in range(counts[number])] for number in range(3)]
    assert all(counts)
    for sink in hears:
        assert [what for _, _, what in sink.heard] == heard
    assert [[what for what in heard if what.startswith(f"{number} ")] for number in range(3)] == expected


def test_what_is_told_between_the_look_and_the_telling_is_shown_to_all() -> None:
    """A sink's `wants` is asked after it was looked whether there is anything to tell, as another thread may tell."""
    hears = Hears(every_batch=False)

    class Late(Teller):
        asked = 0

        def __init__(self) -> None:
            super().__init__("nowhere", wants=self.wants)

        def wants(self, phase: Phase, step: int) -> bool:
            self.asked += 1
            if self.run is not None and self.asked == 3:
                self.run.tell(Told(what="late"))
            return True

    learner_of(subs=[Listens()]).replace(sinks=[Late(), hears]).fit(1, print_stats=False)
    assert hears.heard == [("train batch", 2, "late")], "with the very batch"


def test_what_is_told_while_others_are_taken_is_not_lost() -> None:
    class Late(list[LogEvent]):
        """Has one more when the others were read, as if another thread had just told it."""

        late: LogEvent | None = Told(what="late")

        def __iter__(self) -> Iterator[LogEvent]:
            yield from list(super().__iter__())
            if self.late is not None and len(self):
                self.append(self.late)
                self.late = None

    hears = Hears()
    learner = learner_of().replace(sinks=[hears])
    learner.machine.news.queued_events = Late([Told(what="early")])
    learner.fit(1, print_stats=False)
    assert [what for _, _, what in hears.heard] == ["early", "late"]


@listening
@pytest.mark.parametrize("places", [None, frozenset({"after_fit"})])
def test_a_failure_is_told_with_what_is_told_of_it(places: Any, subs: list[Subscriber[Batch]]) -> None:
    """To all sinks, those that want other places too."""
    broken = [*DATA[:2], (torch.ones(2, 7), torch.zeros(2, dtype=torch.long))]
    wishes = {"every_batch": False} | ({} if places is None else {"places": places})
    first, last = Hears(**wishes), Hears(**wishes)
    teller = Teller("failure", tells=True, **wishes)
    learner = learner_of(subs=subs).replace(sinks=[first, teller, last], dls=DataLoaders(broken, DATA))
    with pytest.raises(RuntimeError, match="shapes"):
        learner.fit(1, print_stats=False)
    assert first.heard == last.heard == [("failure", 2, "failure")]
    assert first.errors == ["RuntimeError"]


@listening
def test_what_was_told_before_a_failure_is_shown_with_it(subs: list[Subscriber[Batch]]) -> None:
    """To those that tell themselves, too."""
    tells, hears = Hears(tells=True), Hears()

    def fails(preds: Tensor, target: Tensor) -> Tensor:
        assert teller.run is not None
        teller.run.tell(Told(what="just before"))
        raise ValueError("no loss")

    teller = Teller("nowhere")
    learner = learner_of(subs=subs).replace(sinks=[teller, tells, hears], loss_fn=fails)
    with pytest.raises(ValueError, match="no loss"):
        learner.fit(1, print_stats=False)
    assert tells.heard == hears.heard == [("failure", 0, "just before")]
    hears.heard.clear()
    learner.replace(loss_fn=nn.functional.cross_entropy).fit(1, print_stats=False)
    assert hears.heard == []


@pytest.mark.parametrize("tells", [False, True])
def test_a_strict_sink_that_fails_keeps_nothing_from_the_others(tells: bool) -> None:
    class Strict(Teller):
        def __call__(self, transition: Transition) -> None:
            super().__call__(transition)
            if transition.at == "after_epoch" and transition.error is None:
                raise RuntimeError("as strict as that")

    first, last = Hears(every_batch=False), Hears(every_batch=False)
    strict = Strict("after_epoch", "failure", tells=tells, every_batch=False, strict=True)
    with pytest.raises(RuntimeError, match="as strict as that") as caught:
        learner_of().replace(sinks=[first, strict, last]).fit(1, print_stats=False)
    assert caught.value.__notes__[0] == "nntrain: raised by the strict sink Strict"
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.phase == "eval"
    # the failure's own event: told in it by one that tells, and by no other any more
    expected = ["after_epoch", "failure"] if tells else ["after_epoch"]
    assert [what for _, _, what in first.heard] == [what for _, _, what in last.heard] == expected
    shown = [at for at, _, _ in last.transitions]
    assert shown == ["before_fit", "before_epoch", "batch", "after_epoch", "after_epoch"]


def test_of_strict_sinks_that_fail_at_once_the_first_ends_it_and_the_others_are_counted() -> None:
    def strict(text: str) -> Any:
        class Strict:
            interest = Interest(strict=True)

            def __call__(self, transition: Transition) -> None:
                raise RuntimeError(text)

        return Strict()

    with pytest.warns(SinkWarning, match="the second"), pytest.raises(RuntimeError, match="the first"):
        learner_of().replace(sinks=[strict("the first"), strict("the second")]).fit(1, print_stats=False)


def test_a_strict_sink_that_failed_holds_no_state() -> None:
    """Nothing waits for Python to look for cycles."""
    alive: list[weakref.ref[TrainState]] = []

    class Strict:
        interest = Interest(strict=True)

        def __call__(self, transition: Transition) -> None:
            if transition.at == "after_epoch" and transition.error is None:
                alive.append(weakref.ref(transition.state))
                raise RuntimeError("as strict as that")

    learner = learner_of().replace(sinks=[Strict()])
    gc.collect()
    gc.disable()
    try:
        with suppress(RuntimeError):
            learner.fit(1, print_stats=False)
        assert [one() for one in alive] == [None]
    finally:
        gc.enable()


def test_events_told_change_no_bit() -> None:
    plain = learner_of()
    told = plain.replace(sinks=[Teller(tells=True), Teller(), Hears()])
    assert told.fit(2, print_stats=False).state == plain.fit(2, print_stats=False).state


def test_a_recording_s_output_is_the_sinks_own(tapes: None) -> None:
    """Where something is told within the batch, it is shown to sinks that were not known to want it."""
    outputs: list[BatchOutput] = []
    teller = Teller("nowhere")
    source = torch.Generator().manual_seed(0)
    data = [(torch.randn(2, 3, generator=source), torch.zeros(2, dtype=torch.long)) for _ in range(8)]

    def batches() -> Iterator[Batch]:
        for index, batch in enumerate(data):
            if index in {4, 6}:
                assert teller.run is not None
                teller.run.tell(Told(what="amid"))
            yield batch

    class Batches:
        def __iter__(self) -> Iterator[Batch]:
            return batches()

    class Before(Subscriber[Batch]):
        def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
            return state

    class Keeps:
        interest = Interest(every_batch=False)

        def __call__(self, transition: Transition) -> None:
            if transition.logged and transition.output is not None and transition.progress.phase == "train":
                outputs.append(transition.output)

    learner = learner_of(subs=[Before()]).replace(
        sinks=[teller, Keeps()],
        dls=DataLoaders(Batches(), data[:1]),
        capture=True,
        metric_fn=lambda preds, target: preds.float().mean(),
    )
    learner.fit(1, print_stats=False)
    assert isinstance(learner.machine.engine, Recorded)
    assert len(outputs) == 2
    assert not same_bits(outputs[0].preds, outputs[1].preds)
    assert not torch.equal(outputs[0].loss, outputs[1].loss)
    assert float(outputs[0].metrics["metric"]) != float(outputs[1].metrics["metric"])


# -- sinks that say which batches they want ----------------------------------------------------------------------------


class Wanting(Seen):
    """Wants the batches after which it says so, and notes what it was asked and shown."""

    def __init__(self, wanted: Callable[[Phase, int], bool], **wishes: Any) -> None:
        super().__init__(every_batch=False, wants=self.wants, **wishes)
        self.wanted = wanted
        self.asked: set[tuple[Phase, int]] = set()
        self.shown: list[TrainState] = []

    def wants(self, phase: Phase, step: int) -> bool:
        self.asked.add((phase, step))
        return self.wanted(phase, step)

    def __call__(self, transition: Transition) -> None:
        super().__call__(transition)
        if transition.output is not None:
            self.shown.append(transition.state)


def shown(sink: Wanting) -> list[tuple[str, int, int]]:
    return [(state.progress.phase, state.progress.step, state.progress.batch) for state in sink.shown]


LONG = DataLoaders(DATA * 3, DATA[:3])


@listening
@pytest.mark.parametrize("others", [[], [Seen(every_batch=5)], [Grouped()], [Grouped(every_batch=2)]])
def test_a_sink_is_shown_the_batches_that_it_wants_and_no_other(
    others: list[Seen], subs: list[Subscriber[Batch]]
) -> None:
    wanting = Wanting(lambda phase, step: phase == "train" and step in {2, 3, 12, 13, 20})
    learner = learner_of(subs=subs).replace(sinks=[*others, wanting], dls=LONG)
    state = learner.fit(2, print_stats=False).state
    assert shown(wanting) == [("train", step, (step - 1) % 12 + 1) for step in (2, 3, 12, 13, 20)]
    assert {at for at, _, _ in wanting.transitions} == set(PLACES), "what is no batch that merely ran is shown to all"
    plain = learner.replace(sinks=[])
    assert plain.fit(2, print_stats=False).state == state
    # of each batch it was asked, and of one that might have come
    assert wanting.asked - {("train", 25)} == {("train", step) for step in range(1, 25)} | {("eval", 12), ("eval", 24)}
    # with their state
    by_place = [one for one in finish(plain, plain.init(epochs=2)) if one.sums.batches]
    assert all(any(one == other for other in by_place) for one in wanting.shown)


@listening
def test_in_eval_it_is_asked_with_the_steps_that_lie_behind(subs: list[Subscriber[Batch]]) -> None:
    wanting = Wanting(lambda phase, step: phase == "eval" and step == 24)
    learner_of(subs=subs).replace(sinks=[wanting], dls=LONG).fit(2, print_stats=False)
    assert shown(wanting) == [("eval", 24, 1), ("eval", 24, 2), ("eval", 24, 3)]


@listening
def test_several_sinks_want_batches_of_their_own(subs: list[Subscriber[Batch]]) -> None:
    second, third = (Wanting(lambda phase, step, every=every: not step % every) for every in (2, 3))  # type: ignore[misc] # a default binds the number
    learner_of(subs=subs).replace(sinks=[second, third], dls=LONG).fit(1, print_stats=False)
    for every, sink in ((2, second), (3, third)):
        train = [("train", step, step) for step in range(1, 13) if not step % every]
        assert shown(sink) == [*train, ("eval", 12, 1), ("eval", 12, 2), ("eval", 12, 3)]


@listening
def test_one_that_wants_no_batches_at_all_is_not_asked(subs: list[Subscriber[Batch]]) -> None:
    wanting = Wanting(lambda phase, step: True, places=frozenset({"after_epoch"}))
    learner_of(subs=subs).replace(sinks=[wanting], dls=LONG).fit(1, print_stats=False)
    assert wanting.asked == set()
    assert [at for at, _, _ in wanting.transitions] == ["after_epoch"] * 2


@listening
def test_one_that_fails_when_it_is_asked_ends_no_training(subs: list[Subscriber[Batch]]) -> None:
    def fails(phase: Phase, step: int) -> bool:
        if step == 5:
            raise RuntimeError("do not ask")
        return step == 6

    wanting = Wanting(fails)
    learner = learner_of(subs=subs).replace(sinks=[wanting], dls=LONG)
    with pytest.warns(SinkWarning, match="do not ask"):
        outcome = learner.fit(1, print_stats=False)
    assert shown(wanting) == [("train", 6, 6)]
    assert set(outcome.sink_failures) == {"Wanting"}
    assert outcome.state == learner.replace(sinks=[]).fit(1, print_stats=False).state


@pytest.mark.parametrize(
    ("asked", "subs", "step"),
    [(1, [], 4), (1, [Listens()], 4)],
    ids=["fast", "listening"],
)
def test_a_strict_one_that_fails_when_it_is_asked_leaves_the_state(
    asked: int, subs: list[Subscriber[Batch]], step: int
) -> None:
    """Before the batch."""
    times: list[int] = []

    def fails(phase: Phase, step: int) -> bool:
        times.extend([step] * (step == 5))
        if len(times) == asked and step == 5:
            raise RuntimeError("do not ask")
        return step == 5

    learner = learner_of(subs=subs).replace(sinks=[Wanting(fails, strict=True)], dls=LONG)
    with pytest.raises(RuntimeError, match="do not ask") as caught:
        learner.fit(1, print_stats=False)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.step == step
    plain = learner.replace(sinks=[])
    assert fit_step(plain, before).state == plain.fit(1, print_stats=False).state


@pytest.mark.parametrize(
    "sinks", [[], [Seen(places=frozenset({"after_fit"}))], [Seen()]], ids=["none", "elsewhere", "all"]
)
def test_what_was_logged_in_a_batch_is_in_no_later_state_whoever_is_told(sinks: list[Seen]) -> None:
    seen: list[int] = []

    class Logs(Subscriber[Batch]):
        def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
            seen.append(len(state.logged))
            return state

        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
            return state.log(Told(what=str(state.progress.batch)))

    assert learner_of(*sinks, subs=[Logs()]).fit(1, print_stats=False).state.logged == ()
    assert seen == [0] * 8


def test_a_group_is_told_before_the_batch_that_somebody_wants_by_itself() -> None:
    """So that a strict sink that fails on it leaves the state before that batch."""

    class Fails(Grouped):
        def batches(self, run: RunInfo, ran: Sequence[BatchRan]) -> None:
            raise RuntimeError("no group")

    with pytest.raises(RuntimeError, match="no group") as caught:
        learner_of(Fails(strict=True), Seen(every_batch=3)).fit(1, print_stats=False)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.batch == 2


@pytest.mark.parametrize("event", ["before_batch", "after_batch"])
def test_where_an_answer_goes_elsewhere_it_is_the_batch_reached_that_is_wanted(event: str) -> None:
    class Back(Subscriber[Batch]):
        """Goes back to the state at the first batch, once, at the third."""

        def __init__(self) -> None:
            self.kept: TrainState | None = None
            setattr(self, event, self.go)

        def go(self, state: TrainState, *rest: object) -> TrainState:
            if state.progress.phase == "train" and self.kept is None:
                self.kept = state
            elif state.progress.batch == 3 and self.kept is not None and not reached:
                reached.append(self.kept.progress.batch)
                return self.kept
            return state

    reached: list[int] = []
    seen: list[tuple[int, int]] = []

    class Sees(Seen):
        def __call__(self, transition: Transition) -> None:
            if transition.event == "after_batch" and transition.progress.phase == "train":
                seen.append((transition.progress.batch, transition.state.progress.batch))

    learner_of(Sees(every_batch=False, wants=lambda phase, step: step == 1), subs=[Back()]).fit(1, print_stats=False)
    assert seen == ([(0, 1), (3, 1)] if event == "before_batch" else [(0, 1), (2, 1)])


def test_what_a_sink_does_to_the_configuration_no_other_sees() -> None:
    seen: list[Mapping[str, object]] = []

    def spoil(transition: Transition) -> None:
        config: Any = transition.run.config
        seen.append(copy.deepcopy(config))
        config["optimizer"] = "mine"
        config["subscribers"].append("me")
        config["data"].clear()

    model = torch.nn.Linear(2, 2)
    batches = [(torch.ones(2, 2), torch.tensor([0, 1]))]
    dls = DataLoaders(batches, batches)
    learner = Learner(model, dls, nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.1, sinks=[spoil, spoil])
    assert not learner.fit(1, print_stats=False).sink_failures
    assert len(seen) > 2
    assert all(one == seen[0] for one in seen)
    assert seen[0]["optimizer"] == "SGD"
