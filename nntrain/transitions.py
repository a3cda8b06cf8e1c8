"""What the machine tells: one `Transition` per step of it, shown to sinks.

Sinks tell; they cannot change the training. Whatever has an effect is one: the printed line, a log, a progress bar.
A transition never holds the state before it, which would keep it and cost a copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Protocol

from nntrain.errors import SinkWarning, add_note
from nntrain.events import BatchOutput
from nntrain.records import EpochStats, FrozenMapping, Place, Progress, TrainState
from nntrain.verdicts import Cancel, Event


@dataclass(frozen=True)
class RunInfo:
    """What may be told of the run: the learner in a line of words, and its configuration as plain values."""

    learner: str
    config: Mapping[str, object]
    device: str
    seed: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something that whoever runs a training should know, and that ends nothing: a code to look for, and a text."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of the machine, after it was taken.

    `at` is where the machine stood and `progress` where the training did, when it began; `state` is the state after
    it. `event` is the last event that was published, and `verdict` and `by` who cancelled it. `output` is a batch's.
    `stats` is there where a phase's statistics were finished. `error` is there where the step failed; `state` is then
    the one that remains. `run` is what may be told of the run. `notes` are those that came up since the last one.
    """

    at: Place
    progress: Progress
    state: TrainState
    run: RunInfo
    event: Event | None = None
    verdict: Cancel | None = None
    by: str | None = None
    output: BatchOutput | None = None
    stats: EpochStats | None = None
    error: BaseException | None = None
    notes: tuple[Note, ...] = ()


class Sink(Protocol):
    """Whatever can be called with a `Transition`; what it returns is not looked at.

    A sink that fails does not end a training: it is reported once, counted, and shown in the outcome. With an
    attribute `strict = True` it does. With `places`, a set of places, it is only shown the transitions that began
    there, and costs nothing elsewhere. With `every_batch = False` it is not shown the batches that merely ran, unless
    a step began with one.
    """

    def __call__(self, transition: Transition, /) -> object:
        """Take notice of a transition."""
        ...


@dataclass
class Audience:
    """The sinks of one run, who of them wants what, and how often each failed."""

    sinks: tuple[Sink, ...]
    failures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = False
        """Whether anything was told yet."""
        self._by_place: dict[tuple[Place, bool], tuple[Sink, ...]] = {}

    def at(self, place: Place, *, merely_ran: bool = False) -> tuple[Sink, ...]:
        """Give the sinks that want the transitions which begin at `place`: of a batch that `merely_ran`, or others."""
        found = self._by_place.get((place, merely_ran))
        if found is None:
            found = tuple(
                sink
                for sink in self.sinks
                if place in getattr(sink, "places", (place,))
                and not (merely_ran and getattr(sink, "every_batch", True) is False)
            )
            self._by_place[place, merely_ran] = found
        return found

    def tell(self, sinks: Sequence[Sink], transition: Transition, *, leniently: bool = False) -> None:
        """Show a transition to `sinks`; strict ones may raise, unless this is `leniently` done."""
        for sink in sinks:
            try:
                sink(transition)
            except Exception as error:
                if not leniently and getattr(sink, "strict", False):
                    add_note(error, f"nntrain: raised by the strict sink {sink_name(sink)}")
                    raise
                # A failure's own error must pass on, even where the caller has made warnings errors.
                with suppress(SinkWarning) if leniently else nullcontext():
                    self._count(sink, error)

    def _count(self, sink: Sink, error: Exception) -> None:
        name = sink_name(sink)
        self.failures[name] = self.failures.get(name, 0) + 1
        if self.failures[name] == 1:
            warnings.warn(
                f"sink {name} failed and the training goes on without it: {type(error).__name__}: {error}. "
                f"Further failures are counted in outcome.sink_failures.",
                SinkWarning,
                stacklevel=2,
            )

    def counted(self) -> FrozenMapping[int]:
        """Give the failures so far, by sink."""
        return FrozenMapping(self.failures)


def sink_name(sink: object) -> str:
    """Give the name under which a sink's failures are counted."""
    name = getattr(sink, "__name__", None)
    return name if isinstance(name, str) else type(sink).__name__
