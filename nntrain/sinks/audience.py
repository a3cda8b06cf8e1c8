"""The sinks of a run: who wants what, who failed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from nntrain.errors import LogError, SinkWarning, add_note
from nntrain.sinks.transition import AttentiveSink, BatchRan, GroupSink, RunInfo, Sink, Transition
from nntrain.values.log_event import LogEvent
from nntrain.values.progress import Phase, Place, Progress
from nntrain.values.record import FrozenMapping


@dataclass
class Audience:
    """The sinks of one run, who of them wants what, and how often each failed."""

    sinks: tuple[Sink, ...]
    failures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = False
        """Whether anything was told yet."""
        self._by_place: dict[Place, tuple[Sink, ...]] = {}
        intervals = [(sink, every) for sink in self.at("batch") if (every := every_batch(sink))]
        self.has_last_words: bool = any(getattr(sink, "last_words", False) for sink in self.sinks)
        """Whether a sink is to be told before the process ends."""
        self.attentive: tuple[AttentiveSink, ...] = tuple(
            sink for sink in self.at("batch") if isinstance(sink, AttentiveSink)
        )
        self._each = tuple(
            (sink, every_batch(sink), sink if isinstance(sink, AttentiveSink) else None)
            for sink in self.at("batch")
            if every_batch(sink) or isinstance(sink, AttentiveSink)
        )
        self._groups = tuple((sink, every) for sink, every in intervals if isinstance(sink, GroupSink))
        self._singly = tuple(every for sink, every in intervals if not isinstance(sink, GroupSink))
        self.group_every: int = math.gcd(*(every for _, every in self._groups))
        """Of how many batches one is wanted by those that take them in groups; 0 where none is."""

    def at(self, place: Place) -> tuple[Sink, ...]:
        """Give the sinks that want the transitions which begin at `place`."""
        found = self._by_place.get(place)
        if found is None:
            found = tuple(sink for sink in self.sinks if place in getattr(sink, "places", (place,)))
            self._by_place[place] = found
        return found

    def of_batch(self, place: Progress) -> tuple[Sink, ...]:
        """Give the sinks that want a batch which merely ran; `place` is where the training stands after it."""
        return tuple(
            [
                sink
                for sink, every, asked in self._each
                if (every and not place.batch % every)
                or (asked is not None and self._wants(asked, place.phase, place.step))
            ]
        )

    def wanted(self, phase: Phase, step: int) -> bool:
        """Tell whether a batch, after which `step` optimizer steps lie behind, is wanted by one who says so himself."""
        return any(self._wants(sink, phase, step) for sink in self.attentive)

    def _wants(self, sink: AttentiveSink, phase: Phase, step: int) -> bool:
        """Ask a sink; one that fails wants nothing."""
        try:
            return sink.wants(phase, step)
        except Exception as error:
            if self._ends_it(sink, error, leniently=False):
                raise
            return False

    def next_single(self, count: int) -> int | None:
        """Give which batch of a phase, from the `count`th on, is the next that is wanted with its state."""
        return min((-(-count // every) * every for every in self._singly), default=None)

    def tell_batches(self, run: RunInfo, ran: Sequence[BatchRan], *, leniently: bool) -> None:
        """Show batches that merely ran to those that take them in groups; strict ones may raise, unless leniently."""
        for sink, every in self._groups:
            wanted = ran if every == 1 else [one for one in ran if not one.batch % every]
            if wanted:
                self._guarded(sink, partial(sink.batches, run, wanted), leniently=leniently)

    def tell(
        self,
        sinks: Sequence[Sink],
        transition: Transition,
        untold: Callable[[], tuple[LogEvent, ...]],
        *,
        leniently: bool = False,
    ) -> None:
        """Show a transition to `sinks`; strict ones may raise, unless this is `leniently` done.

        Those that tell events of their own come first. Then `untold` gives what there is to be told beside it: if there
        is anything, all others that want what begins at that place are shown it. A strict one that fails keeps none of
        the others from being shown it.
        """
        failed: list[Exception] = []

        def show(sink: Sink) -> None:
            try:
                self._guarded(sink, partial(sink, transition), leniently=leniently or bool(failed))
            except Exception as error:  # noqa: BLE001 - raised when all were shown it
                failed.append(error)

        for sink in sinks:
            if getattr(sink, "tells", False):
                show(sink)
        events = untold()
        if events:
            transition = replace(transition, logged=(*transition.logged, *events))
            sinks = sinks if transition.error is not None else self.at(transition.at)
        for sink in sinks:
            if not getattr(sink, "tells", False):
                show(sink)
        if failed:
            raise failed.pop()  # so that this frame, which the error holds, does not hold it

    def _guarded(self, sink: Sink, tell: Callable[[], object], *, leniently: bool) -> None:
        try:
            tell()
        except Exception as error:
            if self._ends_it(sink, error, leniently=leniently):
                raise

    def _ends_it(self, sink: Sink, error: Exception, *, leniently: bool) -> bool:
        """Tell whether a sink's error ends the training: a strict one's does. Any other is counted."""
        if not leniently and getattr(sink, "strict", False):
            add_note(error, f"nntrain: raised by the strict sink {sink_name(sink)}")
            return True
        # A failure's own error must pass on, even where the caller has made warnings errors.
        with suppress(SinkWarning) if leniently else nullcontext():
            self._count(sink, error)
        return False

    def _count(self, sink: Sink, error: Exception) -> None:
        name = sink_name(sink)
        first = name not in self.failures
        lost = error.lost_lines if isinstance(error, LogError) else 1
        self.failures[name] = self.failures.get(name, 0) + max(lost, 1)
        if first:
            warnings.warn(
                f"sink {name} failed and the training goes on without it: {type(error).__name__}: {error}. "
                f"Further failures are counted in outcome.sink_failures.",
                SinkWarning,
                stacklevel=2,
            )

    def counted(self) -> FrozenMapping[int]:
        """Give the failures so far, by sink."""
        return FrozenMapping(self.failures)


def every_batch(sink: Sink) -> int:
    """Give of how many batches that merely ran a sink wants one; 0 where it wants none."""
    every: bool | int = getattr(sink, "every_batch", True)
    return int(every)


def sink_name(sink: object) -> str:
    """Give the name under which a sink's failures are counted."""
    name = getattr(sink, "__name__", None)
    return name if isinstance(name, str) else type(sink).__name__
