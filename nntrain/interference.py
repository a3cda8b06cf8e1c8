"""Two subscribers of one order that write the same part of a state: nobody chose which of them has the last word.

What each wrote is seen from the values, without asking anybody twice. `nntrain.testing.clashes`, which runs both
orders, finds more: one that only reads what the other writes is not seen here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from nntrain.bits import same_bits
from nntrain.errors import OrderWarning
from nntrain.events import Listener
from nntrain.records import TrainState
from nntrain.transitions import Note
from nntrain.verdicts import Event

Wrote = Callable[[Listener, TrainState, TrainState], None]

_FIELDS: Final = ("progress", "tensors", "sums", "history", "key")
"""Beside the slots. Not `lr_scale`, which is multiplied, nor `logged`, which is added to: no order is lost there."""


class Interference:
    """Warns, once of each two subscribers, by a warning of Python's and a note for the log."""

    def __init__(self, heard_by: Mapping[Event, tuple[Listener, ...]], tell: Callable[[Note], None]) -> None:
        self._in_question = {
            event for event, listeners in heard_by.items() if len({one.order for one in listeners}) < len(listeners)
        }
        self._tell = tell
        self._told: set[tuple[str, str]] = set()

    def at(self, event: Event) -> Wrote | None:
        """Give what is to be told of each state that a listener made of another, while an event is published."""
        return partial(self._wrote, event, {}) if event in self._in_question else None

    def _wrote(
        self, event: Event, written: dict[str, Listener], listener: Listener, before: TrainState, after: TrainState
    ) -> None:
        for part, was, now in _given_anew(before, after):
            first = written.get(part)
            written[part] = listener
            if first is None or first.order != listener.order or (first.name, listener.name) in self._told:
                continue
            if part != "tensors" and same_bits(was, now):
                continue
            self._told.add((first.name, listener.name))
            text = (
                f"{first.name} and {listener.name} both write the state's {part} at {event} and have the same order "
                f"({listener.order}): {listener.name} has the last word because it is listed later. Give one of them "
                f"another order; nntrain.testing.clashes tells whether it matters which."
            )
            self._tell(Note("subscribers.order", text))
            warnings.warn(text, OrderWarning, stacklevel=2)


def _given_anew(before: TrainState, after: TrainState) -> Iterator[tuple[str, object, object]]:
    """Give the parts that are another object in `after`: in words, as they were, and as they are."""
    was, now = before.__dict__, after.__dict__
    for name in _FIELDS:
        if was[name] is not now[name]:
            yield name, was[name], now[name]
    old, new = before.slots, after.slots
    for name in () if old is new else {**old, **new}:
        if old.get(name) is not new.get(name):
            yield f"slot {name!r}", old.get(name), new.get(name)
