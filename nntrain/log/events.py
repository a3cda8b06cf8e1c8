"""The events of the log: one frozen model each, and how a transition becomes some of them.

A line is an interface. A value that is not finite is null, and its name and kind stand in `nonfinite`; an absent value
is an absent key.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from nntrain.records import FrozenMapping, Phase, Record
from nntrain.transitions import Transition
from nntrain.verdicts import Event, Scope

SCHEMA: Final = "nntrain.event/1"


class LogRecord(Record, frozen=True):
    """What every event says: where the training stood (the state's `Progress`)."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    epoch: int
    phase: Phase
    batch: int
    step: int
    samples: int


class RunStarted(LogRecord, frozen=True):
    """A run began: what is trained, with what, on what."""

    event: Literal["run_started"] = "run_started"
    config: FrozenMapping[Any]
    """learner (in words), model, loss_fn, metrics, optimizer, lr, ...; versions, device, seed, host."""


class EpochFinished(LogRecord, frozen=True):
    """A phase was finished: its sample-weighted means, and the seconds spent in it."""

    event: Literal["epoch_finished"] = "epoch_finished"
    loss: float
    metrics: FrozenMapping[float]
    batches: int
    seconds: float


class CancelledEvent(LogRecord, frozen=True):
    """A subscriber cancelled a scope."""

    event: Literal["cancelled"] = "cancelled"
    scope: Scope
    reason: str
    subscriber: str
    at: Event


class WarningEvent(LogRecord, frozen=True):
    """Something came up that ends nothing: a code to look for, and what it means."""

    event: Literal["warning"] = "warning"
    level: Literal["debug", "info", "warning", "error"] = "warning"
    code: str
    text: str


class RunFailed(LogRecord, frozen=True):
    """A step failed with an error, Ctrl-C included. Nothing follows in this run."""

    event: Literal["run_failed"] = "run_failed"
    level: Literal["debug", "info", "warning", "error"] = "error"
    error_type: str
    message: str
    where: str
    traceback: str


class RunFinished(LogRecord, frozen=True):
    """A fit ended: completed, or cancelled."""

    event: Literal["run_finished"] = "run_finished"
    outcome: Literal["completed", "cancelled"]


LogEvent = Annotated[
    RunStarted | EpochFinished | CancelledEvent | WarningEvent | RunFailed | RunFinished, Field(discriminator="event")
]


def events_of(transition: Transition) -> Iterator[LogEvent]:
    """Give the events that a transition comes to; most batches come to none."""
    progress = transition.progress
    place: dict[str, Any] = {
        "epoch": progress.epoch,
        "phase": progress.phase,
        "batch": progress.batch,
        "step": progress.step,
        "samples": progress.samples,
    }
    stats, verdict, error = transition.stats, transition.verdict, transition.error
    for note in transition.notes:
        yield WarningEvent(**place, code=note.code, text=note.text)
    if stats is not None:
        yield EpochFinished(
            **place, loss=stats.loss, metrics=stats.metrics, batches=stats.batches, seconds=stats.seconds
        )
    if verdict is not None and transition.event is not None:
        yield CancelledEvent(
            **place, scope=verdict.scope, reason=verdict.reason, subscriber=transition.by or "", at=transition.event
        )
    if error is not None:
        yield RunFailed(
            **place,
            error_type=type(error).__name__,
            message=str(error),
            where=f"{transition.at}, {progress.phase} of epoch {progress.epoch}",
            traceback="".join(traceback.format_exception(error)),
        )
    elif transition.state.progress.at == "finished":
        yield RunFinished(**place, outcome="completed" if verdict is None else "cancelled")


def fields_of(event: LogEvent) -> dict[str, object]:
    """Give an event's fields as plain JSON values: what is not finite is None, and named in `nonfinite`."""
    nonfinite: dict[str, str] = {}
    fields = {name: _plain(value, name, nonfinite) for name, value in event.__dict__.items()}
    if nonfinite:
        fields["nonfinite"] = nonfinite
    return fields


def _plain(value: object, path: str, nonfinite: dict[str, str]) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite[path] = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")  # a lone surrogate is no UTF-8
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{path}.{name}", nonfinite) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}.{index}", nonfinite) for index, item in enumerate(value)]
    return _plain(repr(value), path, nonfinite)
