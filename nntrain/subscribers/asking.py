"""Asking: who listens to which event, found once; each asked in turn, and the answer checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Never, NoReturn

from nntrain.errors import SubscriberError, VerdictError, add_note
from nntrain.subscribers.protocol import EVENTS, Subscriber, check_names
from nntrain.values.calls import call_problem
from nntrain.values.state import TrainState
from nntrain.values.verdicts import Cancel, CancelBatch, CancelEpoch, CancelFit, Event

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
class Listener:
    """One method of one subscriber, found once."""

    name: str
    order: int
    call: Callable[..., object]


class Published(NamedTuple):
    """What an event came to: the state to go on with, and the verdict if somebody gave one.

    `rank` is that of who answered, where several train together.
    """

    state: TrainState
    verdict: Cancel | None = None
    by: str = ""
    rank: int | None = None


def subscriber_name(subscriber: object) -> str:
    """Return the name under which a subscriber appears in outcomes and logs."""
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
        if not isinstance(subscriber, Subscriber):
            for kind in type(subscriber).__mro__:  # a subclass of `Subscriber` was checked when it was made
                check_names(kind)
        if not heard and (not isinstance(subscriber, Subscriber) or _own_methods(subscriber)):
            own = f" It has {', '.join(_own_methods(subscriber))}." if isinstance(subscriber, Subscriber) else ""
            raise SubscriberError(
                f"{name} listens to no event.{own} Derive from Subscriber and override one, or decorate a function "
                f"with @on('after_epoch'); the events are {', '.join(EVENTS)}. A sink goes into sinks=[...]."
            )
        for event in heard:
            call = getattr(subscriber, event)
            _check_signature(name, event, call)
            found[event].append(Listener(name, order, call))
    return {event: tuple(sorted(heard_by, key=lambda one: one.order)) for event, heard_by in found.items()}


def _own_methods(subscriber: Subscriber[Never]) -> list[str]:
    """Return the public methods that a subclass added: one that hears nothing, but has some, has a misspelt event."""
    names = (name for name in dir(type(subscriber)) if not name.startswith("_") and not hasattr(Subscriber, name))
    return [name for name in names if callable(getattr(type(subscriber), name))]


def hears(subscriber: object, event: Event) -> bool:
    """Return whether a subscriber listens to an event: whether it has a method of its own for it."""
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
    problem = call_problem(call, *arguments)
    if problem is not None:
        raise SubscriberError(
            f"{name}.{event} cannot be called with ({', '.join(arguments)}): {problem}. Expected {wanted}."
        )


def publish(
    event: Event,
    heard_by: tuple[Listener, ...],
    state: TrainState,
    *rest: object,
) -> Published:
    """Ask each listener in turn; the first verdict ends the event.

    Raises `SubscriberError` or `VerdictError` for answers that the event does not allow; what a listener itself
    raises passes on, with a note that names it.
    """
    for listener in heard_by:
        try:
            answer = listener.call(state, *rest)
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
