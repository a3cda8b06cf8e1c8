"""Subscribers around another: one that lets it be replaced, and one that finds what it does beside answering."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch

from nntrain.errors import BorrowError
from nntrain.subscribers.asking import hears, subscriber_name
from nntrain.subscribers.protocol import EVENTS, Listening, Subscriber
from nntrain.testing.copies import copy_parts, writable_parts
from nntrain.testing.laws import Law, LawBrokenError
from nntrain.testing.memory import memory_of
from nntrain.testing.purity import probe_call
from nntrain.values.bits import same_bits
from nntrain.values.randomness import kept_outside_torch
from nntrain.values.state import TrainState
from nntrain.values.verdicts import Event

_SEEN: Final = (
    "the tensors of the state",
    "the batch, which whoever is asked next, or next epoch, sees",
    "the output, which whoever is asked next, or next epoch, sees",
)
_ADVICE: Final = "Keep it in a Slot: state.put(slot, value)."


class StandIn(Subscriber[Any]):
    """Answers as `inner` does, which may be replaced by one of its kind. It has no `order`, whatever `inner` has."""

    def __init__(self, inner: Listening[Any]) -> None:
        self.inner = inner
        self.name: str = subscriber_name(inner)
        for event in EVENTS:
            if hears(inner, event):
                setattr(self, event, partial(self._ask, event))

    def _ask(self, event: Event, *seen: object) -> object:
        answer: object = getattr(self.inner, event)(*seen)
        return answer


class SubscriberProbe(StandIn):
    """Answers as `inner` does, in its order. With `twice` it asks everything twice.

    `memory` has the changes in what `inner` remembers outside the state, with their events.
    """

    def __init__(self, inner: Listening[Any], *, twice: bool = False) -> None:
        super().__init__(inner)
        self.order: int = getattr(inner, "order", 0)
        self.twice = twice
        self.memory: dict[str, list[str]] = {}

    def _ask(self, event: Event, *seen: object) -> object:
        ask = partial(super()._ask, event, *seen)
        copies = [copy_parts(one) for one in seen]
        remembered = memory_of(self.inner)
        drawn_from = torch.get_rng_state()
        try:
            with kept_outside_torch():
                answer = probe_call(ask, lambda law, said: self._broken(law, event, said))
        except BorrowError as error:
            raise self._broken("immutability", event, f"wrote to a borrowed tensor. {error}") from error
        for what, one, copy in zip(_SEEN, seen, copies, strict=False):
            if not same_bits(writable_parts(one), copy):
                raise self._broken("immutability", event, f"wrote to {what}")
        for name, value in memory_of(self.inner).items():
            was = remembered.get(name)
            if was != value:
                self.memory.setdefault(name, []).append(f"{_short(was)} to {_short(value)} at {event}")
        if self.twice:
            after = torch.get_rng_state()
            torch.set_rng_state(drawn_from)
            with kept_outside_torch():
                again = ask()
            torch.set_rng_state(after)
            if not same_bits(answer, again):
                said = f"answered otherwise when asked the same again: {_describe(answer)}, then {_describe(again)}"
                raise self._broken("determinism", event, said)
        return answer

    def _broken(self, law: Law, event: Event, said: str) -> LawBrokenError:
        return LawBrokenError(law, self.name, f"{event} {said}")


def _describe(answer: object) -> str:
    return type(answer).__name__ if isinstance(answer, TrainState) else f"{answer!r:.100}"


def _short(value: object) -> str:
    said = "nothing" if value is None else str(value)
    return said if len(said) <= 60 else f"{said[:57]}..."


def memory_changes(probe: SubscriberProbe, *, more_than: int = 0) -> str | None:
    """Return in words what changed more than `more_than` times in a subscriber's memory; None where nothing did."""
    said = [f"{name} went from {changes[-1]}" for name, changes in probe.memory.items() if len(changes) > more_than]
    return f"{'; '.join(said)}. {_ADVICE}" if said else None
