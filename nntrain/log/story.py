"""What a log tells: a pure function from what it has told and a transition to what it tells next.

Nothing here looks at a clock or writes. `nntrain.log.json_log` stamps what is told, and hands it on.
"""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NamedTuple

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
from nntrain.sinks.transition import BatchRan, RunInfo, Transition
from nntrain.values.history import EpochStats
from nntrain.values.log_event import LogEvent, WarningEvent
from nntrain.values.progress import Progress
from nntrain.values.record import FrozenMapping, evolved


class Told(NamedTuple):
    """What was told of a run, as far as what is told next depends on it.

    `begun` says whether the run was; `fitting` whether its fit goes on; `place` is where the training stood then;
    `history` are the finished phases that a reader knows of, None where nobody can tell.
    """

    begun: bool = False
    fitting: bool = False
    place: Progress | None = None
    history: tuple[EpochStats, ...] | None = ()


NOTHING: Final = Told()
"""What was told of a run before it begins."""


class Saying(NamedTuple):
    """An event, and where the training stood."""

    place: Progress
    event: LogEvent


def tell(told: Told, transition: Transition, every: int = 0) -> tuple[Told, list[Saying | BatchRan]]:
    """Give what is to be told of a transition, and what was told then.

    `every` is of how many batches of a phase one is told; 0 for none. A batch's numbers may still be on the device:
    it is given as a `BatchRan`, for whoever reads many at once.
    """
    sayings = list(_sayings(told, transition, every))
    over = transition.error is not None or transition.state.progress.at == "finished"
    return Told(True, not over, transition.state.progress, transition.state.history), sayings


def is_fresh(transition: Transition) -> bool:
    """Tell whether a transition is the first of a training."""
    place = transition.progress
    return place.step == place.epoch == place.batch == 0 and place.phase == "train" and not _history_before(transition)


def begins_anew(told: Told, transition: Transition) -> bool:
    """Tell whether a transition is of another training, from its beginning, than the one that was told of."""
    place = transition.progress
    return (
        told.place is not None
        and is_fresh(transition)
        and (place.at == "before_fit" or not _goes_on(told.place, place))
    )


def _sayings(told: Told, transition: Transition, every: int) -> Iterator[Saying | BatchRan]:
    place, state = transition.progress, transition.state
    if not told.begun:
        yield Saying(place, RunStarted(config=config_of(transition.run)))
    if transition.at == "before_fit":
        yield Saying(place, FitStarted(epochs=place.epochs, resumed=False))
    elif not told.fitting or told.place is None or not _goes_on(told.place, place):
        resumed = place.phase == "eval" or bool(place.step or place.batch or place.epoch)
        yield Saying(place, FitStarted(epochs=place.epochs, resumed=resumed))
    history = _history_before(transition)
    if history != told.history:
        kept = _common(told.history or (), history)
        yield Saying(place, HistoryReplaced(kept=kept, history=tuple(map(PastPhase.of, history[kept:]))))
    for note in transition.notes:
        yield Saying(place, WarningEvent(code=note.code, text=note.text))
    yield from _happened(transition, every)
    ran = transition.event == "after_batch" and transition.verdict is None and transition.error is None
    for event in transition.logged:
        yield Saying(state.progress if ran else place, event)
    verdict, error = transition.verdict, transition.error
    if verdict is not None and transition.event is not None:
        by = transition.by or ""
        yield Saying(
            place, CancelledEvent(scope=verdict.scope, reason=verdict.reason, subscriber=by, at=transition.event)
        )
    if error is not None:
        yield Saying(place, _failure(error, transition))
    elif state.progress.at == "finished":
        outcome = FitFinished(outcome="completed" if verdict is None else "cancelled")
        yield from (Saying(state.progress, outcome), Saying(state.progress, RunFinished()))


def _happened(transition: Transition, every: int) -> Iterator[Saying | BatchRan]:
    """Give what the transition itself comes to, whatever was said of it."""
    place, stats, output = transition.progress, transition.stats, transition.output
    if transition.error is not None or transition.verdict is not None:
        return
    if transition.at == "before_epoch":
        yield Saying(place, EpochStarted())
    elif stats is not None:
        yield Saying(
            evolved(place, epoch=stats.epoch, phase=stats.phase, samples=stats.samples),
            EpochFinished(loss=stats.loss, metrics=stats.metrics, batches=stats.batches, seconds=stats.seconds),
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
            output.metrics,
            0.0,
            transition.lr_scale,
        )


def _goes_on(told: Progress, place: Progress) -> bool:
    """Tell whether a place is where a training gets to from what was told: batches may lie between."""
    return (
        (told.epochs, told.epoch, told.phase) == (place.epochs, place.epoch, place.phase)
        and told.batch <= place.batch
        and told.step <= place.step
    )


def _history_before(transition: Transition) -> tuple[EpochStats, ...]:
    history = transition.state.history
    if transition.stats is not None and history and history[-1] is transition.stats:
        return history[:-1]
    return history


def _common(one: tuple[EpochStats, ...], other: tuple[EpochStats, ...]) -> int:
    """Count the phases in which two histories begin alike."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _failure(error: BaseException, transition: Transition) -> RunFailed:
    place = transition.progress
    return RunFailed(
        error_type=type(error).__name__,
        error_message=_said(error),
        where=f"{transition.at}, {place.phase} of epoch {place.epoch}",
        traceback="".join(traceback.format_exception(error)),
    )


def _said(error: BaseException) -> str:
    """Give an error's message; one that cannot be told is not to cost the line."""
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - whatever somebody's __str__ raises
        return f"<its message cannot be told: {type(failure).__name__}>"


def config_of(run: RunInfo) -> FrozenMapping[object]:
    """Give a run's configuration: the learner's, and the facts of where it runs."""
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
