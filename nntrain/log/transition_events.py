"""The events that a transition becomes: a pure function of the transition and of what was logged before it.

Nothing here reads a clock or writes: `nntrain.log.json_log` does.
"""

from __future__ import annotations

import operator
import os
import platform
import traceback
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from typing import NamedTuple

import pydantic
import torch

from nntrain.log.events import (
    CancelledEvent,
    EpochFinished,
    EpochStarted,
    FitFinished,
    FitStarted,
    HistoryReplaced,
    PastPhase,
    RunFailed,
    RunFinished,
    RunStarted,
)
from nntrain.ranks.world import current_world
from nntrain.sinks.transition import BatchRan, RunInfo, Transition
from nntrain.values.history import EpochStats
from nntrain.values.log_event import LogEvent, WarningEvent
from nntrain.values.progress import Progress
from nntrain.values.record import FrozenMapping, evolved


class LogState(NamedTuple):
    """What was logged of a run, as far as the next events depend on it. By default, nothing was.

    `begun` says that the run has begun, and `fitting` that its fit is running. `progress` is the last one logged.
    `history` has the finished phases that a reader of the log knows of; None if that is not known.
    """

    begun: bool = False
    fitting: bool = False
    progress: Progress | None = None
    history: tuple[EpochStats, ...] | None = ()


class PlacedEvent(NamedTuple):
    """An event, and the training's progress when it happened."""

    progress: Progress
    event: LogEvent


def events_of(logged: LogState, transition: Transition, every: int) -> tuple[LogState, list[PlacedEvent | BatchRan]]:
    """Return the state of the log after a transition, and the events to log.

    Every `every`th batch of a phase is logged; none if it is 0. A batch is returned as a `BatchRan`, whose loss and
    metrics may still be on the device: the caller can read those of many batches at once.
    """
    events = list(_events(logged, transition, every))
    over = transition.error is not None or transition.state.progress.at == "finished"
    return LogState(True, not over, transition.state.progress, transition.state.history), events


def starts_training(transition: Transition) -> bool:
    """Return whether a transition is the first of a training."""
    now = transition.progress
    return now.step == now.epoch == now.batch == 0 and now.phase == "train" and not _history_before(transition)


def starts_other_training(logged: LogState, transition: Transition) -> bool:
    """Return whether a transition starts a training other than the one that was logged."""
    now, before = transition.progress, logged.progress
    return (
        before is not None and starts_training(transition) and (now.at == "before_fit" or not _continues(before, now))
    )


def _events(logged: LogState, transition: Transition, every: int) -> Iterator[PlacedEvent | BatchRan]:
    progress, state = transition.progress, transition.state
    if not logged.begun:
        world = current_world()
        size = None if world.single else world.size
        yield PlacedEvent(progress, RunStarted(config=config_of(transition.run), world_size=size))
    if transition.at == "before_fit":
        yield PlacedEvent(progress, _fit_started(progress, resumed=False))
    elif not logged.fitting or logged.progress is None or not _continues(logged.progress, progress):
        resumed = progress.phase == "eval" or bool(progress.step or progress.batch or progress.epoch)
        yield PlacedEvent(progress, _fit_started(progress, resumed=resumed))
    history = _history_before(transition)
    if history != logged.history:
        kept = sum(takewhile(bool, map(operator.eq, logged.history or (), history)))  # how many agree at the beginning
        past = tuple(map(PastPhase.of, history[kept:]))
        yield PlacedEvent(progress, HistoryReplaced(kept=kept, history=past, data=progress.data or None))
    for note in transition.notes:
        yield PlacedEvent(progress, WarningEvent(code=note.code, text=note.text))
    yield from _step_event(transition, every)
    ran = transition.event == "after_batch" and transition.verdict is None and transition.error is None
    for event in transition.logged:
        yield PlacedEvent(state.progress if ran else progress, event)
    verdict, error = transition.verdict, transition.error
    if verdict is not None and transition.event is not None:
        cancelled = CancelledEvent(
            scope=verdict.scope,
            reason=verdict.reason,
            subscriber=transition.by or "",
            at=transition.event,
            by_rank=transition.rank,
        )
        yield PlacedEvent(progress, cancelled)
    if error is not None:
        yield PlacedEvent(progress, _failure(error, transition))
    elif state.progress.at == "finished":
        outcome = FitFinished(outcome="completed" if verdict is None else "cancelled")
        yield from (PlacedEvent(state.progress, outcome), PlacedEvent(state.progress, RunFinished()))


def _step_event(transition: Transition, every: int) -> Iterator[PlacedEvent | BatchRan]:
    """Yield the event of the step itself: an epoch began or was finished, or a batch ran."""
    progress, stats, output = transition.progress, transition.stats, transition.output
    if transition.error is not None or transition.verdict is not None:
        return
    if transition.at == "before_epoch":
        yield PlacedEvent(progress, EpochStarted(data=progress.data or None))
    elif stats is not None:
        yield PlacedEvent(
            evolved(
                progress,
                epoch=stats.epoch,
                phase=stats.phase,
                samples=stats.samples,
                step=transition.state.progress.step,  # with the one that wrote a short window
            ),
            EpochFinished(
                loss=stats.loss,
                metrics=stats.metrics,
                batches=stats.batches,
                seconds=stats.seconds,
                told=FrozenMapping({name: float(one) for name, one in transition.told.items()}) or None,
                data=stats.data or None,
                has_loss=None if stats.has_loss else False,
            ),
        )
    elif output is not None and every and transition.state.progress.batch % every == 0:
        now = transition.state.progress
        yield BatchRan(
            now.epoch,
            now.phase,
            now.batch,
            now.step,
            now.samples,
            output.loss,
            {**output.told, **output.metrics},
            0.0,
            transition.lr_scale,
            now.data,
            output.has_loss,
        )


def _fit_started(place: Progress, *, resumed: bool) -> FitStarted:
    return FitStarted(epochs=place.epochs, resumed=resumed, until=place.until, data=place.data or None)


def _continues(before: Progress, now: Progress) -> bool:
    """Return whether a training at `before` can get to `now` within the same phase, over any number of batches."""
    return (
        (before.epochs, before.until, before.epoch, before.phase, before.data)
        == (now.epochs, now.until, now.epoch, now.phase, now.data)
        and before.batch <= now.batch
        and before.step <= now.step
    )


def _history_before(transition: Transition) -> tuple[EpochStats, ...]:
    history = transition.state.history
    if transition.stats is not None and history and history[-1] is transition.stats:
        return history[:-1]
    return history


def _failure(error: BaseException, transition: Transition) -> RunFailed:
    progress = transition.progress
    phase = f"{progress.phase} ({progress.data})" if progress.data else progress.phase
    return RunFailed(
        error_type=type(error).__name__,
        error_message=_message(error),
        where=f"{transition.at}, {phase} of epoch {progress.epoch}",
        traceback="".join(traceback.format_exception(error)),
    )


def _message(error: BaseException) -> str:
    """Return an error's message, or a text that says that making it failed."""
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - a foreign __str__ may raise anything
        return f"<its message cannot be told: {type(failure).__name__}>"


def config_of(run: RunInfo) -> FrozenMapping[object]:
    """Return a run's configuration: the learner's, and where it runs: versions, device, seed, host."""
    return FrozenMapping(
        {
            "learner": run.learner,
            **run.config,
            "versions": _versions(),
            "device": run.device,
            "seed": run.seed,
            "host": {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
        }
    )


@lru_cache(maxsize=1)
def _versions() -> Mapping[str, str]:
    try:
        own = version("nntrain")
    except PackageNotFoundError:  # run from a source tree
        own = "0"
    return FrozenMapping(
        {
            "nntrain": own,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "pydantic": pydantic.VERSION,
            "structlog": version("structlog"),
        }
    )
