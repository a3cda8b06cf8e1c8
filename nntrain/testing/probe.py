"""A subscriber around another: looks, at each event, at what the other does beside answering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

import torch
from torch import Tensor

from nntrain.batches import mapped
from nntrain.bits import same_bits
from nntrain.errors import BorrowError
from nntrain.events import EVENTS, BatchOutput, Listening, Subscriber, hears, subscriber_name
from nntrain.records import TrainState
from nntrain.testing.broken import Law, LawBrokenError
from nntrain.testing.memory import remembered
from nntrain.testing.watching import as_before, watched
from nntrain.verdicts import Event

BatchIn = TypeVar("BatchIn", contravariant=True)  # noqa: PLC0105 - as the protocols have it
_ADVICE: Final = "Keep it in a Slot: state.put(slot, value)."


class Probe(Subscriber[BatchIn]):
    """Stands in for `inner`, and answers as it does. With `twice` it asks it everything twice.

    `memory` has what changed of what `inner` remembers outside the state, with the event at which it did.
    """

    def __init__(self, inner: Listening[BatchIn], *, twice: bool = False) -> None:
        self.inner = inner
        self.order: int = getattr(inner, "order", 0)
        self.name: str = subscriber_name(inner)
        self.twice = twice
        self.memory: dict[str, list[str]] = {}
        for event in EVENTS:
            if hears(inner, event):
                setattr(self, event, self._asking(event, getattr(inner, event)))

    def _asking(self, event: Event, call: Callable[..., Any]) -> Callable[..., Any]:
        if event == "after_batch":
            return lambda state, batch, output: self._ask(event, call, state, batch, output)
        if event == "before_batch":
            return lambda state, batch: self._ask(event, call, state, batch)
        return lambda state: self._ask(event, call, state)

    def _ask(self, event: Event, call: Callable[..., Any], state: TrainState, *rest: Any) -> Any:
        kept = _Kept(state), [_copied(one) for one in rest]
        before = remembered(self.inner)
        drawn_from = torch.get_rng_state()
        try:
            with as_before():
                answer, seen, moved = watched(lambda: call(state, *rest))
        except BorrowError as error:
            self._broken("immutability", event, f"wrote to a borrowed tensor. {error}", error)
        if seen:
            self._broken(seen[0].law, event, seen[0].said)
        if moved:
            self._broken("manners", event, f"changed {' and '.join(moved)}")
        self._check_unwritten(event, kept, state, rest)
        self._look_at_memory(event, before)
        if self.twice:
            after = torch.get_rng_state()
            torch.set_rng_state(drawn_from)
            with as_before():
                again = call(state, *rest)
            torch.set_rng_state(after)
            if not same_bits(answer, again):
                self._broken(
                    "determinism",
                    event,
                    f"answered otherwise when asked the same again: {_shown(answer)}, then {_shown(again)}",
                )
        return answer

    def _check_unwritten(self, event: Event, kept: tuple[_Kept, list[Any]], state: TrainState, rest: Any) -> None:
        before, copies = kept
        if before.differs(state):
            self._broken("immutability", event, "wrote to the tensors of the state")
        for name, given, copied in zip(("batch", "output"), rest, copies, strict=False):
            if not same_bits(_plain(given), copied):
                self._broken(
                    "immutability", event, f"wrote to the {name}, which whoever is asked next, or next epoch, sees"
                )

    def _look_at_memory(self, event: Event, before: dict[str, object]) -> None:
        after = remembered(self.inner)
        for name, value in after.items():
            was = before.get(name)
            if was != value:
                self.memory.setdefault(name, []).append(f"{_short(was)} to {_short(value)} at {event}")

    def lasting(self) -> str | None:
        """Say what changed more than once, as no cache does; None where nothing did."""
        said = [f"{name} went from {changes[-1]}" for name, changes in self.memory.items() if len(changes) > 1]
        return f"{'; '.join(said)}. {_ADVICE}" if said else None

    def changed(self) -> str | None:
        """Say what changed at all; None where nothing did."""
        said = [f"{name} went from {changes[-1]}" for name, changes in self.memory.items()]
        return f"{'; '.join(said)}. {_ADVICE}" if said else None

    def _broken(self, law: Law, event: Event, said: str, cause: BaseException | None = None) -> NoReturn:
        raise LawBrokenError(law, self.name, f"{event} {said}") from cause


class _Kept:
    """Copies of a state's tensors, which do not keep the state itself."""

    def __init__(self, state: TrainState) -> None:
        self._tensors = self._of(state)

    @staticmethod
    def _of(state: TrainState) -> dict[str, Tensor]:
        return {**state.params, **state.buffers}

    def differs(self, state: TrainState) -> bool:
        return not same_bits(self._tensors, self._of(state))


def _plain(given: Any) -> Any:
    if isinstance(given, BatchOutput):
        return given.loss, given.preds, dict(given.metrics)
    return given


def _copied(given: Any) -> Any:
    return mapped(_plain(given), lambda tensor: tensor.detach().clone())


def _shown(answer: object) -> str:
    return type(answer).__name__ if isinstance(answer, TrainState) else f"{answer!r:.100}"


def _short(value: object) -> str:
    said = "nothing" if value is None else str(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
