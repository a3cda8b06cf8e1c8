"""The six events: who may listen, in which order, and what may be answered.

A subscriber decides. It sees the state and answers with a state or a verdict; it is a pure function of what it sees,
and its only memory is a `Slot` in the state. Overriding a method of `Subscriber` with a wrong signature is an error
that mypy names; for those who do not type-check, the learner names it before anything runs.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, NamedTuple, Never, NoReturn, Protocol, TypeVar, get_args, overload

from torch import Tensor

from nntrain.errors import SubscriberError, VerdictError, add_note
from nntrain.records import TrainState
from nntrain.verdicts import Cancel, CancelBatch, CancelEpoch, CancelFit, Event

Batch = TypeVar("Batch")
BatchIn_contra = TypeVar("BatchIn_contra", contravariant=True)

AnswerFit = TrainState | CancelFit
AnswerEpoch = TrainState | CancelEpoch | CancelFit
AnswerBatch = TrainState | CancelBatch | CancelEpoch | CancelFit

EVENTS: Final[tuple[Event, ...]] = get_args(Event)
ALLOWED: Final[dict[Event, tuple[type[Cancel], ...]]] = {
    "before_fit": (CancelFit,),
    "after_fit": (CancelFit,),
    "before_epoch": (CancelEpoch, CancelFit),
    "after_epoch": (CancelEpoch, CancelFit),
    "before_batch": (CancelBatch, CancelEpoch, CancelFit),
    "after_batch": (CancelBatch, CancelEpoch, CancelFit),
}
"""Which verdicts make sense at which event: those of the scopes that run."""

_ARGUMENTS: Final[dict[Event, tuple[str, ...]]] = {
    "before_fit": ("state",),
    "after_fit": ("state",),
    "before_epoch": ("state",),
    "after_epoch": ("state",),
    "before_batch": ("state", "batch"),
    "after_batch": ("state", "batch", "output"),
}


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """What a batch gave: `loss` (0-dim) and `preds` (what the model returned), both detached from the graph.

    `metrics` are the batch's own, by name: 0-dim tensors, or numbers where the metric gives such.
    """

    loss: Tensor
    preds: object
    """The model's own output: a tensor, or a tree of tensors. `isinstance` tells a type checker which."""
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)


class BeforeFit(Protocol):
    """Listens before a fit begins."""

    order: int

    def before_fit(self, state: TrainState) -> AnswerFit:
        """Answer with the state to go on with, or `CancelFit`."""
        ...


class AfterFit(Protocol):
    """Listens when a fit has ended, unless it was cancelled."""

    order: int

    def after_fit(self, state: TrainState) -> AnswerFit:
        """Answer with the state to go on with, or `CancelFit`."""
        ...


class BeforeEpoch(Protocol):
    """Listens before a phase (train or eval) of an epoch begins."""

    order: int

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        """Answer with the state to go on with, `CancelEpoch` or `CancelFit`."""
        ...


class AfterEpoch(Protocol):
    """Listens when a phase has ended and its statistics are in `state.history`."""

    order: int

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """Answer with the state to go on with, `CancelEpoch` or `CancelFit`."""
        ...


class BeforeBatch(Protocol[BatchIn_contra]):
    """Listens before a batch."""

    order: int

    def before_batch(self, state: TrainState, batch: BatchIn_contra) -> AnswerBatch:
        """Answer with the state to go on with, or any verdict."""
        ...


class AfterBatch(Protocol[BatchIn_contra]):
    """Listens after a batch; `state` has its counts and, in training, its weights."""

    order: int

    def after_batch(self, state: TrainState, batch: BatchIn_contra, output: BatchOutput) -> AnswerBatch:
        """Answer with the state to go on with, or any verdict."""
        ...


class Listening(
    BeforeFit,
    AfterFit,
    BeforeEpoch,
    AfterEpoch,
    BeforeBatch[BatchIn_contra],
    AfterBatch[BatchIn_contra],
    Protocol[BatchIn_contra],
):
    """What a learner takes: a `Subscriber`, or whatever has all six methods and an `order`.

    Untyped callers may pass objects that have some of them. In types that would not do: an object made for other
    batches would pass for one that only listens to `before_fit`.
    """


class Subscriber(Generic[BatchIn_contra]):
    """A base for subscribers: override what you need; the rest costs nothing.

    `order` says who is asked first (smaller first, then as registered). Generic in the batch:
    `class SkipOdd(Subscriber[tuple[Tensor, Tensor]])`.
    """

    order: int = 0

    def __init_subclass__(cls, **keywords: object) -> None:
        """Name a misspelt event when the class is made."""
        super().__init_subclass__(**keywords)
        for name in vars(cls):
            if name not in EVENTS and not name.startswith("_"):
                likely = difflib.get_close_matches(name, EVENTS, n=1, cutoff=0.85)
                if likely or name.startswith(("before_", "after_")):
                    meant = likely[0] if likely else " or ".join(EVENTS)
                    raise SubscriberError(
                        f"{cls.__name__}.{name} is no event, so it would never be called. Did you mean {meant}? "
                        f"(A method of your own needs a name unlike an event's, or a leading underscore.)"
                    )

    def before_fit(self, state: TrainState) -> AnswerFit:
        """Answer before a fit begins."""
        return state

    def after_fit(self, state: TrainState) -> AnswerFit:
        """Answer when a fit has ended."""
        return state

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        """Answer before a phase begins."""
        return state

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """Answer when a phase has ended; its statistics are in `state.history`."""
        return state

    def before_batch(self, state: TrainState, batch: BatchIn_contra) -> AnswerBatch:  # noqa: ARG002 - for those who override it
        """Answer before a batch."""
        return state

    def after_batch(self, state: TrainState, batch: BatchIn_contra, output: BatchOutput) -> AnswerBatch:  # noqa: ARG002 - same
        """Answer after a batch."""
        return state


class _FunctionSubscriber(Subscriber[BatchIn_contra]):
    """A plain function as a subscriber of one event."""

    def __init__(self, event: Event, function: Callable[..., object], order: int) -> None:
        self.name = getattr(function, "__name__", repr(function))
        self.order = order
        self.function = function
        setattr(self, event, function)


OnState = Callable[[TrainState], TrainState | CancelFit]
OnPhase = Callable[[TrainState], TrainState | CancelEpoch | CancelFit]
OnBatch = Callable[[TrainState, Batch], AnswerBatch]
OnOutput = Callable[[TrainState, Batch, BatchOutput], AnswerBatch]


@overload
def on(event: Literal["before_fit", "after_fit"], *, order: int = 0) -> Callable[[OnState], Subscriber[object]]: ...
@overload
def on(event: Literal["before_epoch", "after_epoch"], *, order: int = 0) -> Callable[[OnPhase], Subscriber[object]]: ...
@overload
def on(
    event: Literal["before_batch"], *, order: int = 0
) -> Callable[[Callable[[TrainState, Batch], AnswerBatch]], Subscriber[Batch]]: ...
@overload
def on(
    event: Literal["after_batch"], *, order: int = 0
) -> Callable[[Callable[[TrainState, Batch, BatchOutput], AnswerBatch]], Subscriber[Batch]]: ...
def on(event: Event, *, order: int = 0) -> Callable[[Never], object]:
    """Make a subscriber of one event from a plain function.

    >>> @on("after_epoch")
    ... def three_are_enough(state: TrainState) -> TrainState | CancelFit:
    ...     return CancelFit(reason="three") if state.progress.epoch == 2 else state
    """
    if event not in EVENTS:
        raise SubscriberError(f"{event!r} is no event; the events are {', '.join(EVENTS)}.")

    def subscribe(function: Callable[..., object]) -> Subscriber[object]:
        return _FunctionSubscriber(event, function, order)

    return subscribe


@dataclass(frozen=True, slots=True)
class Listener:
    """One method of one subscriber, found once."""

    name: str
    order: int
    call: Callable[..., object]


class Asks(Protocol):
    """Asks listeners for somebody who watches them."""

    def call(self, listener: Listener, state: TrainState, *rest: object) -> object:
        """Give what the listener answers."""
        ...

    def answered(self, listener: Listener, before: TrainState, after: TrainState) -> None:
        """Take note that a listener, shown `before`, answered `after`, which may be the same."""
        ...


class Published(NamedTuple):
    """What an event came to: the state to go on with, and the verdict if somebody gave one."""

    state: TrainState
    verdict: Cancel | None = None
    by: str = ""


def subscriber_name(subscriber: object) -> str:
    """Give the name under which a subscriber appears in outcomes and logs."""
    name = getattr(subscriber, "name", None)
    return name if isinstance(name, str) else type(subscriber).__name__


def listeners(subscribers: Sequence[object]) -> dict[Event, tuple[Listener, ...]]:
    """Find, once, who listens to which event; refuse what could not be called."""
    found: dict[Event, list[Listener]] = {event: [] for event in EVENTS}
    for subscriber in subscribers:
        name = subscriber_name(subscriber)
        if isinstance(subscriber, type):
            raise SubscriberError(
                f"subs has the class {subscriber.__name__}; pass an instance: {subscriber.__name__}()."
            )
        order = getattr(subscriber, "order", 0)
        if not isinstance(order, int):
            raise SubscriberError(f"{name}.order is {order!r}, expected an int.")
        heard: list[Event] = [event for event in EVENTS if hears(subscriber, event)]
        if not heard and not isinstance(subscriber, Subscriber):
            raise SubscriberError(
                f"{name} listens to no event. Derive from Subscriber, or decorate a function with "
                f"@on('after_epoch'); the events are {', '.join(EVENTS)}."
            )
        for event in heard:
            call = getattr(subscriber, event)
            _check_signature(name, event, call)
            found[event].append(Listener(name, order, call))
    return {event: tuple(sorted(heard_by, key=lambda one: one.order)) for event, heard_by in found.items()}


def hears(subscriber: object, event: Event) -> bool:
    """Tell whether a subscriber listens to an event: whether it has a method of its own for it."""
    if event in getattr(subscriber, "__dict__", {}):
        return True
    method = getattr(type(subscriber), event, None)
    return method is not None and method is not getattr(Subscriber, event)


def _check_signature(name: str, event: Event, call: object) -> None:
    arguments = _ARGUMENTS[event]
    wanted = f"{event}(self, {', '.join(arguments)})"
    if not callable(call):
        raise SubscriberError(f"{name}.{event} is {call!r}, expected a method {wanted}.")
    if inspect.iscoroutinefunction(call):
        raise SubscriberError(f"{name}.{event} is async; subscribers answer at once. Make it a plain def: {wanted}.")
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # builtins without a signature: the call itself will tell
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise SubscriberError(
            f"{name}.{event}{signature} cannot be called with ({', '.join(arguments)}): {error}. Expected {wanted}."
        ) from error


def publish(
    event: Event,
    heard_by: tuple[Listener, ...],
    state: TrainState,
    *rest: object,
    asking: Asks | None = None,
) -> Published:
    """Ask each listener in turn; the first verdict ends the event.

    `asking`, if given, is what asks each of them, and is told the states that they answered.

    Raises `SubscriberError` or `VerdictError` for answers that the event does not allow; what a listener itself
    raises passes on, with a note that names it.
    """
    for listener in heard_by:
        try:
            answer = listener.call(state, *rest) if asking is None else asking.call(listener, state, *rest)
        except BaseException as error:
            add_note(error, f"nntrain: raised by subscriber {listener.name} at {event}")
            raise
        verdict: Cancel | None = None
        if isinstance(answer, TrainState):
            after = answer
        elif isinstance(answer, ALLOWED[event]):
            verdict = answer
            after = verdict.state or state
        else:
            _refuse(event, listener, answer)
        if after is not state and (verdict is None or verdict.scope != "fit"):
            _check_place(event, listener, state, after)
        if asking is not None:
            asking.answered(listener, state, after)
        state = after
        if verdict is not None:
            return Published(state, verdict, listener.name)
    return Published(state)


def _check_place(event: Event, listener: Listener, state: TrainState, answer: TrainState) -> None:
    if answer.progress.at != state.progress.at:
        raise SubscriberError(
            f"{listener.name}.{event} answered a state that stands at {answer.progress.at}, but the machine stands at "
            f"{state.progress.at}. Answer a state of this place, or stop with CancelFit(state=...) and go on from it."
        )


def _refuse(event: Event, listener: Listener, answer: object) -> NoReturn:
    allowed = " | ".join(["TrainState", *(kind.__name__ for kind in ALLOWED[event])])
    if isinstance(answer, (CancelBatch, CancelEpoch, CancelFit)):
        raise VerdictError(
            f"{listener.name}.{event} answered {type(answer).__name__}, but no {answer.scope} runs at {event}. "
            f"It may answer {allowed}."
        )
    given = "None (is `return state` missing?)" if answer is None else f"{type(answer).__name__}: {answer!r:.80}"
    raise SubscriberError(f"{listener.name}.{event} returned {given}; expected {allowed}.")
