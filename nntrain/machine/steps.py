"""The steps: folds of the machine, from one transition to a whole fit.

    advance     one transition: what stands at the state's place, and nothing else
    batch_step  one batch, its events with it
    epoch_step  what is left of one phase: train, or eval
    fit_step    what is left of one fit: train then eval, epochs times, or until so many steps are taken

All are pure: they take a state and return an `Outcome` with the next, and the state that went in stays what it was.
A fold drops each state as it goes, so that nothing is copied; a state that the caller keeps costs one copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from nntrain.errors import ConfigError
from nntrain.machine.interrupts import Interrupts, held_back
from nntrain.machine.machine import HasMachine, machine_of
from nntrain.machine.table import Step, moved_to, next_fit, reached_goal
from nntrain.machine.telling import Telling
from nntrain.sinks.audience import Audience
from nntrain.sinks.interest import Sink
from nntrain.values.progress import Place, Progress
from nntrain.values.state import TrainState, remember_state, state_before
from nntrain.values.verdicts import Cancelled, Completed, Outcome

Batch = TypeVar("Batch")


_OUTSIDE: Final[tuple[Place, ...]] = ("before_epoch", "after_fit", "finished")


def advance(learner: HasMachine[Batch], state: TrainState) -> Outcome:
    """Take one transition. Fold it yourself to pause, inspect or interleave trainings.

    A fresh state needs a goal first: `learner.init(seed, epochs=...)`. Raises `ConfigError` on a finished state.
    """
    check_state(state)
    _check_goes_on(state)
    if _has_no_goal(state.progress):
        raise ConfigError("This state has no goal: make it with learner.init(seed, epochs=...), or use fit_step.")
    return fold(learner, [state], None)


def batch_step(learner: HasMachine[Batch], state: TrainState, batch: Batch) -> Outcome:
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
    return fold(learner, [moved_to(state, at="batch")], None, batch=(batch,))


def epoch_step(learner: HasMachine[Batch], state: TrainState) -> Outcome:
    """Run one phase: `before_epoch`, its batches, its statistics, `after_epoch`. A running phase goes on to its end.

    Returns `Cancelled` where the phase, or the fit, was cancelled; a cancelled batch does not cancel its phase. Raises
    `ConfigError` on a finished state.
    """
    check_state(state)
    _check_goes_on(state)
    if state.progress.at in {"before_fit", "after_fit"}:
        state = moved_to(state, at="before_epoch")
    return fold(learner, [state], lambda step: step.state.progress.at in _OUTSIDE)


def fit_step(
    learner: HasMachine[Batch], state: TrainState, epochs: int | None = None, *, steps: int | None = None
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


def with_goal(state: TrainState, epochs: int | None, steps: int | None = None) -> TrainState:
    """Return the state with the goal that `fit_step` would train to."""
    progress = state.progress
    fresh = progress.at == "before_fit"
    if epochs is None and steps is None:
        if progress.at == "finished" or (fresh and reached_goal(progress)):
            raise ConfigError(
                f"A {'fresh' if fresh else 'finished'} state needs a goal: fit_step(learner, state, epochs=...), or "
                f"steps=..."
            )
        return state
    check_goal(epochs, steps)
    if progress.at == "finished" or fresh:
        return next_fit(state, epochs or 0, steps)
    state = moved_to(state, epochs=epochs or 0, until=steps)
    if progress.phase == "train" and progress.at in {"before_epoch", "after_fit"}:
        # Between epochs the goal says where the machine stands: before one more, or at the fit's end.
        return moved_to(state, at="after_fit" if reached_goal(state.progress) else "before_epoch")
    return state


def check_goal(epochs: object, steps: object) -> None:
    """Raise `ConfigError` for what is not a number of epochs or else of steps."""
    if steps is None:
        if epochs is None:
            raise ConfigError("A fit needs a goal: epochs=..., or steps=...")
        check_epochs(epochs)
    elif epochs is not None:
        raise ConfigError(f"A fit has one goal; got epochs={epochs!r} and steps={steps!r}. Give one of them.")
    elif isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"steps is {steps!r}; expected a whole number of 1 or more.")


def check_epochs(epochs: object) -> None:
    """Raise `ConfigError` for what is no number of epochs."""
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise ConfigError(f"epochs is {epochs!r}; expected a whole number of 0 or more.")


def _has_no_goal(place: Progress) -> bool:
    return place.at == "before_fit" and place.epochs == 0 and place.until is None


def _check_goes_on(state: TrainState) -> None:
    if state.progress.at == "finished":
        raise ConfigError("This state's fit is finished. Begin another: fit_step(learner, state, epochs=...).")


def check_state(state: object) -> None:
    """Raise `ConfigError` for what is no state."""
    if isinstance(state, (Completed, Cancelled)):
        raise ConfigError(f"Got a {type(state).__name__}; a step takes its state: outcome.state.")
    if not isinstance(state, TrainState):
        raise ConfigError(
            f"Got {type(state).__name__}; a step takes a TrainState, from learner.init() or outcome.state."
        )


def fold(
    learner: HasMachine[Batch],
    cell: list[TrainState],
    done: Callable[[Step], bool] | None,
    *,
    batch: tuple[Batch] | None = None,
    sinks: tuple[Sink, ...] = (),
) -> Outcome:
    """Step the machine from the state in `cell`, which is taken out, until `done`; one step if that is None.

    `sinks` are told beside the learner's own.
    """
    machine = machine_of(learner)
    audience = Audience((*sinks, *machine.sinks), grouping=machine.takes_batches_in_groups)
    telling = Telling(audience, machine.news, machine.info)
    machine.check_sums(cell[0])
    audience.check(cell[0])
    with machine.running(), held_back(terminate=audience.has_last_words) as interrupts:
        cell[0] = telling.queued(cell[0])  # a subscriber that keeps the state, to go back to it, keeps it without
        while True:
            try:
                step = machine.step(cell, telling, interrupts, batch=batch, once=done is None)
            except Exception as error:
                if interrupts.pressed:
                    interrupts.let_through(_interrupted_by(error, interrupts))
                raise
            if interrupts.pressed:
                interrupt = interrupts.made()
                telling.failure(interrupt, step.state, step.state.progress)
                interrupts.let_through(interrupt)
            if done is None or done(step):
                break
            cell[:] = [step.state]
            del step
    if step.verdict is None or step.event is None:
        return Completed(state=step.state, sink_failures=audience.counted())
    return Cancelled(
        state=step.state,
        verdict=step.verdict,
        by=step.by,
        event=step.event,
        sink_failures=audience.counted(),
    )


def _interrupted_by(error: Exception, interrupts: Interrupts) -> BaseException:
    """Return the interrupt that waited for the end of a step which failed, perhaps of the same Ctrl-C."""
    interrupt = interrupts.made()
    interrupt.__cause__ = error
    remember_state(interrupt, state_before(error))
    return interrupt
