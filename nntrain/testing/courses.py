"""The course of a run: all that can be compared of its transitions, each with a copy of its state."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nntrain.machine.steps import fit_step
from nntrain.sinks.interest import Interest, Sink
from nntrain.sinks.transition import Transition
from nntrain.subscribers.protocol import Listening
from nntrain.testing.plans import Batch, Trial
from nntrain.values.progress import Place, Progress
from nntrain.values.record import evolved
from nntrain.values.state import TrainState
from nntrain.values.verdicts import Cancel


@dataclass(frozen=True)
class Stop:
    """A transition: where the machine stood, what was answered, and a copy of the state after it."""

    at: Place
    progress: Progress
    event: str | None
    verdict: Cancel | None
    by: str | None
    state: TrainState

    @classmethod
    def of(cls, transition: Transition) -> Stop:
        """Take a transition down."""
        told = transition
        state = evolved(told.state, tensors=copy.deepcopy(told.state.tensors))  # all else of it is frozen
        return cls(told.at, told.progress, told.event, told.verdict, told.by, state)

    def __str__(self) -> str:
        return f"{self.event or self.at} of {place(self.progress)}"


def place(progress: Progress) -> str:
    """Say where a training stands."""
    return f"epoch {progress.epoch}, {progress.phase}, batch {progress.batch}"


class Follower:
    """A sink that holds a run against one that was taken down. `parted` says where it first is another, and how."""

    interest: Final = Interest(strict=True)

    def __init__(self, expected: Sequence[Stop], *, by: bool = True) -> None:
        self.parted: str | None = None
        self._expected = expected
        self._by = by
        self._next = 0

    def __call__(self, transition: Transition, /) -> None:
        """Compare a transition with the one that is expected."""
        index, self._next = self._next, self._next + 1
        if self.parted is None:
            self.parted = self._difference(index, transition)

    def _difference(self, index: int, told: Transition) -> str | None:
        if index >= len(self._expected):
            return f"the other goes on with {told.event or told.at} of {place(told.progress)} when this has ended"
        stop = self._expected[index]
        if (stop.at, stop.progress) != (told.at, told.progress):
            return f"at {stop} the other stands at {told.event or told.at} of {place(told.progress)}"
        said, said_there = (_verdict(one.verdict, one.by if self._by else None) for one in (stop, told))
        if said != said_there:
            return f"at {stop}: {said} here, {said_there} there"
        if stop.state != told.state:
            return f"at {stop} the states differ:\n    " + str(stop.state.diff(told.state)).replace("\n", "\n    ")
        return None

    def ended(self) -> str | None:
        """Say where the run parted, now that it is at its end."""
        if self.parted is None and self._next < len(self._expected):
            self.parted = f"the other has come to its end where this goes on with {self._expected[self._next]}"
        return self.parted


def course(run: Trial[Batch], subs: Sequence[Listening[Batch]]) -> list[Stop]:
    """Run from the beginning to the end; give each transition."""
    stops: list[Stop] = []

    def take_down(transition: Transition) -> None:
        stops.append(Stop.of(transition))

    learner = run.learner(subs, [take_down])
    fit_step(learner, learner.init(run.seed), run.epochs)
    return stops


def parted(
    expected: Sequence[Stop],
    run: Trial[Batch],
    subs: Sequence[Listening[Batch]],
    *,
    state: TrainState | None = None,
    sinks: Sequence[Sink] = (),
    by: bool = True,
) -> str | None:
    """Run from the beginning, or from `state`, to the end; say where it parts from what is expected. None: nowhere.

    `by` tells who cancelled apart, too.
    """
    follower = Follower(expected, by=by)
    learner = run.learner(subs, [follower, *sinks])
    if state is None:
        fit_step(learner, learner.init(run.seed), run.epochs)
    else:
        fit_step(learner, state)
    return follower.ended()


def _verdict(verdict: Cancel | None, by: str | None) -> str:
    if verdict is None:
        return "no verdict"
    return f"{type(verdict).__name__}({verdict.reason!r})" + (f" by {by}" if by else "")
