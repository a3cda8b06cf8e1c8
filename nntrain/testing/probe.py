"""A subscriber around another: looks, at each event, at what the other does beside answering."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, NoReturn

import torch

from nntrain.errors import BorrowError
from nntrain.subscribers.protocol import Listening
from nntrain.testing.broken import Law, LawBrokenError
from nntrain.testing.memory import remembered
from nntrain.testing.purity import watched
from nntrain.testing.shown import copied, plain
from nntrain.testing.standing_in import StandIn
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


class Probe(StandIn):
    """Answers as `inner` does, in its order. With `twice` it asks it everything twice.

    `memory` has what changed of what `inner` remembers outside the state, with the event at which it did.
    """

    def __init__(self, inner: Listening[Any], *, twice: bool = False) -> None:
        super().__init__(inner)
        self.order: int = getattr(inner, "order", 0)
        self.twice = twice
        self.memory: dict[str, list[str]] = {}

    def _ask(self, event: Event, *seen: object) -> object:
        ask = partial(super()._ask, event, *seen)
        copies = [copied(one) for one in seen]
        before = remembered(self.inner)
        drawn_from = torch.get_rng_state()
        try:
            with kept_outside_torch():
                answer, impure, moved = watched(ask)
        except BorrowError as error:
            self._broken("immutability", event, f"wrote to a borrowed tensor. {error}", error)
        if impure:
            self._broken(impure[0].law, event, impure[0].said)
        if moved:
            self._broken("manners", event, f"changed {' and '.join(moved)}")
        for what, one, copy in zip(_SEEN, seen, copies, strict=False):
            if not same_bits(plain(one), copy):
                self._broken("immutability", event, f"wrote to {what}")
        self._look_at_memory(event, before)
        if self.twice:
            after = torch.get_rng_state()
            torch.set_rng_state(drawn_from)
            with kept_outside_torch():
                again = ask()
            torch.set_rng_state(after)
            if not same_bits(answer, again):
                said = f"answered otherwise when asked the same again: {_shown(answer)}, then {_shown(again)}"
                self._broken("determinism", event, said)
        return answer

    def _look_at_memory(self, event: Event, before: dict[str, object]) -> None:
        after = remembered(self.inner)
        for name, value in after.items():
            was = before.get(name)
            if was != value:
                self.memory.setdefault(name, []).append(f"{_short(was)} to {_short(value)} at {event}")

    def lasting(self) -> str | None:
        """Say what changed more than once, as no cache does; None where nothing did."""
        return self.changed(more_than=1)

    def changed(self, *, more_than: int = 0) -> str | None:
        """Say what changed, of what changed more often than that; None where nothing did."""
        said = [f"{name} went from {changes[-1]}" for name, changes in self.memory.items() if len(changes) > more_than]
        return f"{'; '.join(said)}. {_ADVICE}" if said else None

    def _broken(self, law: Law, event: Event, said: str, cause: BaseException | None = None) -> NoReturn:
        raise LawBrokenError(law, self.name, f"{event} {said}") from cause


def _shown(answer: object) -> str:
    return type(answer).__name__ if isinstance(answer, TrainState) else f"{answer!r:.100}"


def _short(value: object) -> str:
    said = "nothing" if value is None else str(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
