"""The sinks of one run: who of them wants what, each told in turn, and how often each failed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace

from nntrain.errors import LogError, SinkWarning, add_note
from nntrain.ranks.console import by_rank
from nntrain.sinks.interest import Interest, Sink, interest_of, sink_name
from nntrain.sinks.transition import BatchRan, RunInfo, Transition
from nntrain.values.log_event import LogEvent
from nntrain.values.progress import Phase, Place
from nntrain.values.record import FrozenMapping
from nntrain.values.state import TrainState


@dataclass(frozen=True, slots=True, eq=False)
class Watcher:
    """A sink of the audience, and what it wants."""

    sink: Sink
    interest: Interest


class Audience:
    """The sinks of one run. `grouping` says whether unwatched batches may be taken in groups."""

    def __init__(self, sinks: Sequence[Sink], *, grouping: bool) -> None:
        self.everybody: tuple[Watcher, ...] = tuple(Watcher(sink, interest_of(sink)) for sink in sinks)
        self.began = False
        """Whether anything was told yet."""
        self.has_last_words: bool = any(one.interest.last_words for one in self.everybody)
        """Whether a sink is to be told before the process ends."""
        self._tellers = any(one.interest.tells for one in self.everybody)
        self._failures: dict[str, int] = {}
        self._by_place: dict[Place, tuple[Watcher, ...]] = {}
        each = [(one, int(one.interest.every_batch)) for one in self.at("batch")]
        self._each = [(one, every) for one, every in each if every or one.interest.wants is not None]
        self._groups = [(one, every) for one, every in each if grouping and every and one.interest.batches is not None]
        in_groups = [one for one, _ in self._groups]
        self._alone = [(one, 0 if one in in_groups else every) for one, every in self._each]
        """As `_each`, less the batches that are taken in groups."""
        every_one = bool(self._alone) and all(every == 1 for _, every in self._alone)
        self._all = [one for one, _ in self._alone] if every_one else []
        """All of them, where each wants every batch by itself."""
        self.group_every: int = math.gcd(*(every for _, every in self._groups))
        """N if each Nth unwatched batch may be wanted in a group, 0 where none is."""

    def check(self, state: TrainState) -> None:
        """Let sinks look at the state that a step is to begin with. What they raise ends the step."""
        for one in self.everybody:
            if one.interest.check is not None:
                one.interest.check(state)

    def at(self, place: Place) -> tuple[Watcher, ...]:
        """Return those who want the transitions that begin at `place`."""
        found = self._by_place.get(place)
        if found is None:
            found = tuple(one for one in self.everybody if place in one.interest.places)
            self._by_place[place] = found
        return found

    def of_batch(self, phase: Phase, batch: int, step: int | None) -> Sequence[Watcher]:
        """Return those who are told of an unwatched batch: number `batch` of its phase, after `step` steps.

        With a step of None it makes none, and nobody is asked about the step before it once more.
        They are all who want it, if one of them wants it by itself, and nobody where it is left to groups.
        """
        if self._all:
            return self._all
        for alone, every in self._alone:
            if (every and not batch % every) or self._asked(alone, phase, step):
                return [
                    one
                    for one, every in self._each
                    if (every and not batch % every) or one is alone or self._asked(one, phase, step)
                ]
        return ()

    def _asked(self, one: Watcher, phase: Phase, step: int | None) -> bool:
        """Ask a sink whether it wants a batch; one that fails wants nothing."""
        wants = one.interest.wants
        if wants is None or step is None:
            return False
        try:
            return wants(phase, step)
        except Exception as error:
            if self._ends_it(one, error, leniently=False):
                raise
            return False

    def tell_batches(self, run: RunInfo, ran: Sequence[BatchRan], *, leniently: bool) -> None:
        """Tell of unwatched batches those who take them in groups; strict ones may raise, unless `leniently`."""
        for one, every in self._groups:
            wanted = ran if every == 1 else [batch for batch in ran if not batch.batch % every]
            if wanted and one.interest.batches is not None:
                try:
                    one.interest.batches(run, wanted)
                except Exception as error:
                    if self._ends_it(one, error, leniently=leniently):
                        raise

    def tell(
        self,
        listening: Sequence[Watcher],
        transition: Transition,
        queued_events: Callable[[], tuple[LogEvent, ...]],
        *,
        leniently: bool = False,
    ) -> None:
        """Tell those `listening` of a transition; strict ones may raise, unless `leniently`.

        Those who tell events of their own come first. Then `queued_events` returns what they told: if there is
        anything, all others that want what begins at that place are told. A strict one that fails keeps none of the
        others from being told.
        """
        failed: list[Exception] = []
        if self._tellers:
            self._show([one for one in listening if one.interest.tells], transition, failed, leniently=leniently)
            events = queued_events()
            if events:
                transition = replace(transition, logged=(*transition.logged, *events))
                listening = listening if transition.error is not None else self.at(transition.at)
            listening = [one for one in listening if not one.interest.tells]
        self._show(listening, transition, failed, leniently=leniently)
        if failed:
            raise failed.pop()  # so that this frame, which the error holds, does not hold it

    def _show(
        self, listening: Sequence[Watcher], transition: Transition, failed: list[Exception], *, leniently: bool
    ) -> None:
        for one in listening:
            try:
                one.sink(transition)
            except Exception as error:  # noqa: BLE001 - a strict one's is raised when all were told
                try:
                    if self._ends_it(one, error, leniently=leniently or bool(failed)):
                        failed.append(error)
                except Exception as warned:  # noqa: BLE001 - where the caller has made warnings errors
                    failed.append(warned)

    def _ends_it(self, one: Watcher, error: Exception, *, leniently: bool) -> bool:
        """Return whether a sink's error ends the training: a strict one's does. Any other is counted."""
        if not leniently and one.interest.strict:
            add_note(error, f"nntrain: raised by the strict sink {sink_name(one.sink)}")
            return True
        # A failure's own error must pass on, even where the caller has made warnings errors.
        with suppress(SinkWarning) if leniently else nullcontext():
            self._count(sink_name(one.sink), error)
        return False

    def _count(self, name: str, error: Exception) -> None:
        first = name not in self._failures
        lost = error.lost_lines if isinstance(error, LogError) else 1
        self._failures[name] = self._failures.get(name, 0) + max(lost, 1)
        if first:
            failed = f"sink {name} failed and the training goes on without it: {type(error).__name__}: {error}"
            warnings.warn(
                by_rank(f"{failed}. Further failures are counted in outcome.sink_failures."),
                SinkWarning,
                stacklevel=2,
            )

    def counted(self) -> FrozenMapping[int]:
        """Return the failures so far, by sink."""
        return FrozenMapping(self._failures)
