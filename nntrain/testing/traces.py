"""The trace of a run: what can be compared of its transitions, each with a copy of its state."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nntrain.machine.folding import with_goal
from nntrain.machine.steps import advance, fit_step
from nntrain.sinks.interest import Interest, Sink
from nntrain.sinks.transition import Transition
from nntrain.subscribers.protocol import Listening
from nntrain.testing.plans import Batch, Trial
from nntrain.values.progress import Place, Progress
from nntrain.values.record import evolved
from nntrain.values.state import TrainState
from nntrain.values.verdicts import Cancel


@dataclass(frozen=True)
class TraceStep:
    """A recorded transition: the place of the machine, the answer, and a copy of the state after it."""

    at: Place
    progress: Progress
    event: str | None
    verdict: Cancel | None
    by: str | None
    state: TrainState

    @classmethod
    def of(cls, transition: Transition) -> TraceStep:
        """Record a transition."""
        state = evolved(transition.state, tensors=copy.deepcopy(transition.state.tensors))  # the rest is frozen
        return cls(transition.at, transition.progress, transition.event, transition.verdict, transition.by, state)

    def __str__(self) -> str:
        return f"{self.event or self.at} of {place(self.progress)}"


def place(progress: Progress) -> str:
    """Return in words where a training is."""
    return f"epoch {progress.epoch}, {progress.data or progress.phase}, batch {progress.batch}"


class TraceChecker:
    """A sink that compares a run with a recorded one. `difference` says where they first differ, and how."""

    interest: Final = Interest(strict=True)

    def __init__(self, expected: Sequence[TraceStep], *, by: bool = True) -> None:
        self.difference: str | None = None
        self._expected = expected
        self._by = by
        self._next = 0

    def __call__(self, transition: Transition, /) -> None:
        """Compare a transition with the expected one."""
        index, self._next = self._next, self._next + 1
        if self.difference is None:
            self.difference = self._difference(index, transition)

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

    def finish(self) -> str | None:
        """Return the first difference, now that the run has ended; None where there is none."""
        if self.difference is None and self._next < len(self._expected):
            self.difference = f"the other has come to its end where this goes on with {self._expected[self._next]}"
        return self.difference


def record_trace(run: Trial[Batch], subs: Sequence[Listening[Batch]]) -> list[TraceStep]:
    """Run from the beginning to the end; return each transition, recorded."""
    stops: list[TraceStep] = []

    def record(transition: Transition) -> None:
        stops.append(TraceStep.of(transition))

    learner = run.learner(subs, [record])
    fit_step(learner, learner.init(run.seed), run.epochs)
    return stops


def compare_run(
    expected: Sequence[TraceStep],
    run: Trial[Batch],
    subs: Sequence[Listening[Batch]],
    *,
    sinks: Sequence[Sink] = (),
    by: bool = True,
) -> str | None:
    """Run from the beginning to the end; return the first difference from a trace, None without one.

    With `by`, who cancelled must be the same, too.
    """
    follower = TraceChecker(expected, by=by)
    learner = run.learner(subs, [follower, *sinks])
    fit_step(learner, learner.init(run.seed), run.epochs)
    return follower.finish()


def compare_turns(expected: Sequence[TraceStep], run: Trial[Batch], subs: Sequence[Listening[Batch]]) -> str | None:
    """Run in turns with another training of the same learner; return the first difference from a trace."""
    follower = TraceChecker(expected)
    mine = True

    def follow(transition: Transition) -> None:
        if mine:
            follower(transition)

    learner = run.learner(subs, [follow])
    one, other = (with_goal(learner.init(seed), run.epochs) for seed in (run.seed, run.seed + 1))
    while one.progress.at != "finished":
        mine = True
        one = advance(learner, one).state
        if other.progress.at != "finished":
            mine = False
            other = advance(learner, other).state
    return follower.finish()


def _verdict(verdict: Cancel | None, by: str | None) -> str:
    if verdict is None:
        return "no verdict"
    return f"{type(verdict).__name__}({verdict.reason!r})" + (f" by {by}" if by else "")
