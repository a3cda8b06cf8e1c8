"""The steps: folds of the machine, from one transition to a whole fit.

    advance     one transition: what stands at the state's place, and nothing else
    batch_step  one batch, its events with it
    epoch_step  what is left of one phase: train, or eval
    fit_step    what is left of one fit: train then eval, epochs times, or until so many steps are taken

All are pure: they take a state and return an `Outcome` with the next, and the state that went in stays what it was.
A fold drops each state as it goes, so that nothing is copied; a state that the caller keeps costs one copy.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from nntrain.errors import ConfigError
from nntrain.machine.folding import check_state, fold, has_no_goal, with_goal
from nntrain.machine.learner import Learner
from nntrain.machine.table import moved_to, next_fit
from nntrain.values.progress import Place
from nntrain.values.state import TrainState
from nntrain.values.verdicts import Outcome

Batch = TypeVar("Batch")


_OUTSIDE: Final[tuple[Place, ...]] = ("before_epoch", "after_fit", "finished")


def advance(learner: Learner[Batch, Any], state: TrainState) -> Outcome:
    """Take one transition. Fold it yourself to pause, inspect or interleave trainings.

    A fresh state needs a goal first: `learner.init(seed, epochs=...)`. Raises `ConfigError` on a finished state.
    """
    check_state(state)
    _check_goes_on(state)
    if has_no_goal(state.progress):
        raise ConfigError("This state has no goal: make it with learner.init(seed, epochs=...), or use fit_step.")
    cell = [state]
    del state  # whoever holds it has a copy made of it
    return fold(learner, cell, None)


def batch_step(learner: Learner[Batch, Any], state: TrainState, batch: Batch) -> Outcome:
    """Train (or, in an eval phase, evaluate) on `batch`, with its events.

    From a state before an epoch or a fit it begins the phase without publishing the phase's events.
    Returns `Cancelled` with the verdict of any scope.
    """
    check_state(state)
    at = state.progress.at
    if at in {"after_epoch", "after_fit"}:
        raise ConfigError(f"The state stands at {at}: its phase has no batch left. Take advance(learner, state) first.")
    if at == "finished":
        state = next_fit(state, 0)
    cell = [moved_to(state, at="batch")]
    del state
    return fold(learner, cell, None, batch=(batch,))


def epoch_step(learner: Learner[Batch, Any], state: TrainState) -> Outcome:
    """Run one phase: `before_epoch`, its batches, its statistics, `after_epoch`. A running phase goes on to its end.

    Returns `Cancelled` where the phase, or the fit, was cancelled; a cancelled batch does not cancel its phase. Raises
    `ConfigError` on a finished state.
    """
    check_state(state)
    _check_goes_on(state)
    if state.progress.at in {"before_fit", "after_fit"}:
        state = moved_to(state, at="before_epoch")
    cell = [state]
    del state
    return fold(learner, cell, lambda step: step.state.progress.at in _OUTSIDE)


def fit_step(
    learner: Learner[Batch, Any], state: TrainState, epochs: int | None = None, *, steps: int | None = None
) -> Outcome:
    """Run a fit to its end: train then eval, `epochs` times, or until `steps` optimizer steps are taken.

    A fresh or finished state needs one of the two, and counts on from what lies behind it. A state in the middle of a
    fit goes on from its place, without publishing again what was published; `epochs` or `steps`, if given, is its new
    goal: how many lie behind when it is done, counted from `init`. With `steps` the last train phase is cut at the
    goal, and has its statistics and its eval; more steps than an epoch has are more epochs, and cancelled batches are
    none. Returns `Cancelled` where the fit was cancelled. Raises `ConfigError` for a goal that cannot be meant.
    """
    check_state(state)
    cell = [with_goal(state, epochs, steps)]
    del state
    return fold(learner, cell, lambda step: step.state.progress.at == "finished")


def _check_goes_on(state: TrainState) -> None:
    if state.progress.at == "finished":
        raise ConfigError("This state's fit is finished. Begin another: fit_step(learner, state, epochs=...).")
