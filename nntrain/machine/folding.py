"""Folding the machine: stepping it from a state until somebody says that it is done; and the goal of a fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nntrain.errors import ConfigError
from nntrain.machine.interrupts import Interrupts, held_back
from nntrain.machine.machine import HasMachine, machine_of
from nntrain.machine.table import Step, moved_to, next_fit, reached_goal
from nntrain.machine.telling import Telling
from nntrain.sinks.audience import Audience
from nntrain.sinks.interest import Sink
from nntrain.values.numbers import is_count
from nntrain.values.progress import Progress
from nntrain.values.state import TrainState, remember_state, state_before
from nntrain.values.verdicts import Cancelled, Completed, Outcome

Batch = TypeVar("Batch")


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
    elif not is_count(steps, 1):
        raise ConfigError(f"steps is {steps!r}; expected a whole number of 1 or more.")


def check_epochs(epochs: object) -> None:
    """Raise `ConfigError` for what is no number of epochs."""
    if not is_count(epochs, 0):
        raise ConfigError(f"epochs is {epochs!r}; expected a whole number of 0 or more.")


def has_no_goal(place: Progress) -> bool:
    """Return whether a fit is to begin that nobody has said an end of."""
    return place.at == "before_fit" and place.epochs == 0 and place.until is None


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
    try:
        machine.check_sums(cell[0])
        audience.check(cell[0])
    except Exception as error:
        if machine.ranks is not None:
            machine.ranks.failed(error)
        raise
    shared = machine.ranks is not None
    with machine.running(), held_back(terminate=audience.has_last_words or shared, shared=shared) as interrupts:
        cell[0] = telling.queued(cell[0])  # a subscriber that keeps the state, to go back to it, keeps it without
        while True:
            try:
                step = machine.step(cell, telling, interrupts, batch=batch, once=done is None)
            except Exception as error:
                theirs = None if machine.ranks is None else machine.ranks.failed(error)
                if theirs is not None:  # another rank's failure, and no more than a sign of it here
                    remember_state(theirs, state_before(error))
                    raise theirs from error
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
        rank=step.rank,
        sink_failures=audience.counted(),
    )


def _interrupted_by(error: Exception, interrupts: Interrupts) -> BaseException:
    """Return the interrupt that waited for the end of a step which failed, perhaps of the same Ctrl-C."""
    interrupt = interrupts.made()
    interrupt.__cause__ = error
    remember_state(interrupt, state_before(error))
    return interrupt
