"""Two subscribers of one order, one of whom writes what the other reads or writes: nobody chose whose turn is first.

What each read and wrote is seen while it is asked, and nobody is asked twice. Reads are those of slots, by `state.get`.
`nntrain.testing.clashes`, which runs both orders, finds more: a subscriber that looks at the history, or at the
weights, which another writes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from nntrain.bits import same_bits
from nntrain.errors import OrderWarning
from nntrain.events import Listener
from nntrain.records import TrainState, reads
from nntrain.tensors import Tensors
from nntrain.transitions import Note
from nntrain.verdicts import Event

_FIELDS: Final = ("progress", "tensors", "sums", "history", "key")
"""Beside the slots. Not `lr_scale`, which is multiplied, nor `logged`, which is added to: no order is lost there."""


class _Written(NamedTuple):
    """Who wrote a part of the state, what it was, and what it is."""

    by: Listener
    was: object
    now: object


class Interference:
    """Warns, once of each two subscribers, by a warning of Python's and a note for the log."""

    def __init__(self, heard_by: Mapping[Event, tuple[Listener, ...]], tell: Callable[[Note], None]) -> None:
        self._in_question = {
            event for event, listeners in heard_by.items() if len({one.order for one in listeners}) < len(listeners)
        }
        self._tell = tell
        self._told: set[tuple[str, str]] = set()

    def at(self, event: Event) -> Asking | None:
        """Give what watches an event's listeners while they are asked, where two of them have the same order."""
        return Asking(self, event) if event in self._in_question else None

    def found(self, first: Listener, second: Listener, said: str) -> None:
        """Warn of two listeners, unless it was done before."""
        if (first.name, second.name) in self._told:
            return
        self._told.add((first.name, second.name))
        text = (
            f"{said}, and both have order {first.order}: {second.name} is asked last because it is listed later. "
            f"Give one of them another order; nntrain.testing.clashes tells whether it matters which."
        )
        self._tell(Note("subscribers.order", text))
        warnings.warn(text, OrderWarning, stacklevel=2)


class Asking:
    """The listeners of one event, one after the other: who read and who wrote what. Made for each event anew."""

    def __init__(self, interference: Interference, event: Event) -> None:
        self._interference = interference
        self._event = event
        self._reads: set[str] = set()
        """The slots that the listener which was asked last read."""
        self._read: dict[str, list[Listener]] = {}
        self._written: dict[str, list[_Written]] = {}

    def call(self, listener: Listener, state: TrainState, *rest: object) -> object:
        """Ask a listener, and see what it reads."""
        if self._reads:
            self._reads = set()
        before, reads.names = reads.names, self._reads
        try:
            return listener.call(state, *rest)
        finally:
            reads.names = before

    def answered(self, listener: Listener, before: TrainState, after: TrainState) -> None:
        """Hold what the listener just asked wrote and read against what those before it did."""
        if after is not before:
            self._wrote(listener, before, after)
        if self._reads:
            self._has_read(listener)

    def _wrote(self, listener: Listener, before: TrainState, after: TrainState) -> None:
        name = listener.name
        for part, was, now in _given_anew(before, after):
            new = _Written(listener, was, now)
            for one in self._written.get(part, ()):
                self._met(one.by, listener, new, f"{one.by.name} and {name} both write the state's {part}")
            for reader in self._read.get(part, ()):
                self._met(reader, listener, new, f"{reader.name} reads the state's {part}, which {name} writes")
            self._written.setdefault(part, []).append(new)

    def _has_read(self, listener: Listener) -> None:
        name = listener.name
        for part in map(_slot, self._reads):
            for one in self._written.get(part, ()):
                self._met(one.by, listener, one, f"{name} reads the state's {part}, which {one.by.name} writes")
            self._read.setdefault(part, []).append(listener)

    def _met(self, first: Listener, second: Listener, written: _Written, said: str) -> None:
        """Tell of two listeners, if a value was changed; the bits of all weights are not read to find that out."""
        if (
            first is not second
            and first.order == second.order
            and (isinstance(written.now, Tensors) or not same_bits(written.was, written.now))
        ):
            self._interference.found(first, second, f"{said} at {self._event}")


def _slot(name: str) -> str:
    return f"slot {name!r}"


def _given_anew(before: TrainState, after: TrainState) -> Iterator[tuple[str, object, object]]:
    """Give the parts that are another object in `after`: in words, as they were, and as they are."""
    was, now = before.__dict__, after.__dict__
    for name in _FIELDS:
        if was[name] is not now[name]:
            yield name, was[name], now[name]
    old, new = before.slots, after.slots
    for name in () if old is new else {**old, **new}:
        if old.get(name) is not new.get(name):
            yield _slot(name), old.get(name), new.get(name)
