"""The six events: who may listen, in which order, and what may be answered.

A subscriber decides. It sees the state and answers with a state or a verdict; it is a pure function of what it sees,
and its only memory is a `Slot` in the state. Overriding a method of `Subscriber` with a wrong signature is an error
that mypy names; for those who do not type-check, the learner names it before anything runs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from typing import Final, Generic, Literal, Never, Protocol, get_args, overload

from typing_extensions import TypeVar

from nntrain.errors import SubscriberError
from nntrain.values.output import BatchOutput
from nntrain.values.state import TrainState
from nntrain.values.verdicts import CancelBatch, CancelEpoch, CancelFit, Event

Batch = TypeVar("Batch")
Preds = TypeVar("Preds", default=object)
BatchIn_contra = TypeVar("BatchIn_contra", contravariant=True)
PredsIn_contra = TypeVar("PredsIn_contra", contravariant=True, default=object)

AnswerFit = TrainState | CancelFit
AnswerEpoch = TrainState | CancelEpoch | CancelFit
AnswerBatch = TrainState | CancelBatch | CancelEpoch | CancelFit

EVENTS: Final[tuple[Event, ...]] = get_args(Event)


class BeforeFit(Protocol):
    """Listens before a fit begins."""

    order: int

    def before_fit(self, state: TrainState) -> AnswerFit:
        """Return the next state, or `CancelFit`."""
        ...


class AfterFit(Protocol):
    """Listens when a fit has ended, unless it was cancelled."""

    order: int

    def after_fit(self, state: TrainState) -> AnswerFit:
        """Return the next state, or `CancelFit`."""
        ...


class BeforeEpoch(Protocol):
    """Listens before a phase (train or eval) of an epoch begins."""

    order: int

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        """Return the next state, or a verdict for the epoch or fit that is running."""
        ...


class AfterEpoch(Protocol):
    """Listens when a phase has ended and its statistics are in `state.history`."""

    order: int

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """Return the next state, or a verdict for the epoch or fit that is running."""
        ...


class BeforeBatch(Protocol[BatchIn_contra]):
    """Listens before a batch."""

    order: int

    def before_batch(self, state: TrainState, batch: BatchIn_contra) -> AnswerBatch:
        """Return the next state, or a verdict for the batch, epoch or fit that is running."""
        ...


class AfterBatch(Protocol[BatchIn_contra, PredsIn_contra]):
    """Listens after a batch; `state` has its counts and, in training, its weights."""

    order: int

    def after_batch(self, state: TrainState, batch: BatchIn_contra, output: BatchOutput[PredsIn_contra]) -> AnswerBatch:
        """Return the next state, or a verdict for the batch, epoch or fit that is running."""
        ...


class Listening(
    BeforeFit,
    AfterFit,
    BeforeEpoch,
    AfterEpoch,
    BeforeBatch[BatchIn_contra],
    AfterBatch[BatchIn_contra, PredsIn_contra],
    Protocol[BatchIn_contra, PredsIn_contra],
):
    """What a learner takes: a `Subscriber`, or whatever has all six methods and an `order`.

    Untyped callers may pass objects that have some of them. In types that would not do: an object made for other
    batches would pass for one that only listens to `before_fit`.
    """


_BEGINS: Final = frozenset({"before", "begin", "begins", "start", "starts", "started", "pre"})
_ENDS: Final = frozenset({"after", "end", "ends", "ended", "finish", "finished", "done", "post"})
_SCOPES: Final = {"batch": "batch", "step": "batch", "iteration": "batch", "epoch": "epoch", "fit": "fit"}
_PHASES: Final = {"train": "fit", "training": "fit", "valid": "epoch", "validation": "epoch", "eval": "epoch"}


def check_names(kind: type) -> None:
    """Raise `SubscriberError` for a method that is named like an event, of nntrain or another library, and is none."""
    for name, value in vars(kind).items():
        if name in EVENTS or name.startswith("_"):
            continue
        meant = likely_events(name) if callable(value) else ()
        meant = meant or tuple(difflib.get_close_matches(name, EVENTS, n=1, cutoff=0.85))
        if meant or name.startswith(("before_", "after_")):
            raise SubscriberError(
                f"{kind.__name__}.{name} is no event, so it would never be called. Did you mean "
                f"{' or '.join(meant or EVENTS)}? (A method of your own needs a name unlike an event's, or a leading "
                f"underscore.)"
            )


def likely_events(name: str) -> tuple[str, ...]:
    """Return the events that a name means if it is an event's elsewhere: `on_train_epoch_end` is `after_epoch`."""
    words = re.findall("[A-Z]?[a-z]+", name)
    said = [word.lower() for word in words]
    begins, ends = not _BEGINS.isdisjoint(said), not _ENDS.isdisjoint(said)
    scopes = [_SCOPES[word] for word in said if word in _SCOPES] or [_PHASES[word] for word in said if word in _PHASES]
    known = {"on", *_BEGINS, *_ENDS, *_SCOPES, *_PHASES}
    if not scopes or not known.issuperset(said) or (begins == ends and said[0] != "on"):
        return ()
    times = ("before", "after") if begins == ends else ("before",) if begins else ("after",)
    return tuple(f"{time}_{scopes[-1]}" for time in times)


class Subscriber(Generic[BatchIn_contra, PredsIn_contra]):
    """A base for subscribers: override what you need; the rest costs nothing.

    `order` says who is asked first (smaller first, then as registered). Generic in the batch:
    `class SkipOdd(Subscriber[tuple[Tensor, Tensor]])`, and in the predictions, where it looks at them:
    `Subscriber[tuple[Tensor, Tensor], Tensor]`.
    """

    order: int = 0
    monitors: Collection[str] = ()
    """The statistics that it reads, "loss" or metrics by name: a learner without one of them is refused at once."""

    def __init_subclass__(cls, **keywords: object) -> None:
        """Raise `SubscriberError` for a misspelt event, when the class is made."""
        super().__init_subclass__(**keywords)
        check_names(cls)

    def before_fit(self, state: TrainState) -> AnswerFit:
        """Return the next state, or `CancelFit`: before a fit begins."""
        return state

    def after_fit(self, state: TrainState) -> AnswerFit:
        """Return the next state, or `CancelFit`: when a fit has ended."""
        return state

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        """Return the next state, or `CancelEpoch` or `CancelFit`: before a phase begins."""
        return state

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """Return the next state, or a verdict: when a phase has ended, with its statistics in `state.history`."""
        return state

    def before_batch(self, state: TrainState, batch: BatchIn_contra) -> AnswerBatch:  # noqa: ARG002 - for those who override it
        """Return the next state, or any verdict: before a batch."""
        return state

    def after_batch(self, state: TrainState, batch: BatchIn_contra, output: BatchOutput[PredsIn_contra]) -> AnswerBatch:  # noqa: ARG002 - same
        """Return the next state, or any verdict: after a batch, with its counts and weights."""
        return state


class _FunctionSubscriber(Subscriber[BatchIn_contra, PredsIn_contra]):
    """A plain function as a subscriber of one event."""

    def __init__(self, event: Event, function: Callable[..., object], order: int) -> None:
        self.name = getattr(function, "__name__", repr(function))
        self.order = order
        self.function = function
        setattr(self, event, function)


OnState = Callable[[TrainState], TrainState | CancelFit]
OnPhase = Callable[[TrainState], TrainState | CancelEpoch | CancelFit]
OnBatch = Callable[[TrainState, Batch], AnswerBatch]
OnOutput = Callable[[TrainState, Batch, BatchOutput[Preds]], AnswerBatch]


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
) -> Callable[[Callable[[TrainState, Batch, BatchOutput[Preds]], AnswerBatch]], Subscriber[Batch, Preds]]: ...
def on(event: Event, *, order: int = 0) -> Callable[[Never], object]:
    """Make a subscriber of one event from a plain function.

    >>> @on("after_epoch")
    ... def three_are_enough(state: TrainState) -> TrainState | CancelFit:
    ...     return CancelFit(reason="three") if state.progress.epoch == 2 else state
    """
    if event not in EVENTS:
        likely = likely_events(event) if isinstance(event, str) else ()
        meant = f" Did you mean {' or '.join(likely)}?" if likely else ""
        raise SubscriberError(f"{event!r} is no event; the events are {', '.join(EVENTS)}.{meant}")

    def subscribe(function: Callable[..., object]) -> Subscriber[object]:
        return _FunctionSubscriber(event, function, order)

    return subscribe
