"""`dry_run`: what a subscriber would have answered in a recorded run, without training."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, Never, NoReturn

import torch
from torch import nn

from nntrain.errors import ConfigError, StateError
from nntrain.log import Line, read
from nntrain.log.events import (
    BatchFinished,
    EpochFinished,
    EpochStarted,
    FitFinished,
    FitStarted,
    HistoryReplaced,
    RunStarted,
)
from nntrain.log.replay import stats_of
from nntrain.subscribers.asking import listeners, publish
from nntrain.subscribers.protocol import EVENTS, Listening
from nntrain.values.history import History
from nntrain.values.key import Key
from nntrain.values.log_event import LogEvent
from nntrain.values.output import BatchOutput
from nntrain.values.progress import Place, Progress
from nntrain.values.randomness import restoring_rng
from nntrain.values.record import FrozenMapping, Record
from nntrain.values.state import TrainState
from nntrain.values.tensors import Spec, Tensors
from nntrain.values.verdicts import Cancel, CancelFit, Event

_NO_WEIGHTS: Final = "it comes from a log, which has no weights"


class Answered(Record, frozen=True):
    """An answer that changes something: the event, the progress of the run then, and the changes.

    `verdict` cancels; `logged` are events for the log; `lr_scale` is the factor of the learning rate from there on;
    `key_changed` says that the key is another one.
    """

    event: Event
    progress: Progress
    verdict: Cancel | None = None
    logged: tuple[LogEvent, ...] = ()
    lr_scale: float = 1.0
    key_changed: bool = False


class DryRun(Record, frozen=True):
    """What a subscriber would have answered. `asked` counts how often it was asked at each event.

    `unheard` are the events that it listens to and the log does not have: those of batches, where none was logged.
    `state` is the last one, with the subscriber's slots.
    """

    answers: tuple[Answered, ...]
    asked: FrozenMapping[int]
    unheard: tuple[Event, ...]
    state: TrainState

    @property
    def stopped(self) -> Answered | None:
        """The answer that would have ended the fit, if one would have."""
        ends = [answer for answer in self.answers if isinstance(answer.verdict, CancelFit)]
        return ends[-1] if ends else None


class _Unrecorded:
    """Stands for what a log does not have, and raises when it is used."""

    def __init__(self, what: str) -> None:
        self._what = what

    def _refuse(self, *_: object) -> NoReturn:
        raise StateError(f"A log has no {self._what}, so what depends on it cannot be dry-run. Check it by a training.")

    __getattr__ = __getitem__ = __iter__ = __len__ = __call__ = __float__ = __bool__ = _refuse


def dry_run(
    subscriber: Listening[Never], log: str | os.PathLike[str] | Iterable[Line], *, run_id: str | None = None
) -> DryRun:
    """Ask `subscriber` at each event of a recorded run; `log` is the file, or its lines.

    It sees the run's progress, history and losses, and keeps its slots. A log has no weights, batches or predictions:
    reading one raises a `StateError`. It is asked at the batches that were logged (`every=`). The dry run ends at a
    `CancelFit`, since the log does not say how the run would have gone on; the rest of a cancelled phase is skipped.

    Raises `ConfigError` where the log has several runs and `run_id` does not say which, `LogReadError` for what is not
    a log.
    """
    lines = _lines_of_run(log, run_id)
    replay = _Replay(subscriber)
    with restoring_rng([torch.default_generator]):
        for line in lines:
            if not replay.process(line):
                break
    return replay.result()


def _lines_of_run(log: str | os.PathLike[str] | Iterable[Line], run_id: str | None) -> list[Line]:
    lines = list(read(log)) if isinstance(log, (str, os.PathLike)) else list(log)
    there = list(dict.fromkeys(line.run_id for line in lines))
    if run_id is None and len(there) > 1:
        raise ConfigError(f"The log tells of {len(there)} runs; say which by run_id=: {', '.join(there)}.")
    wanted = run_id or (there[0] if there else None)
    if wanted not in there:
        raise ConfigError(f"The log tells of no run {wanted or 'at all'}; there are {', '.join(there) or 'none'}.")
    of_run = [line for line in lines if line.run_id == wanted]
    lowest = min(line.rank for line in of_run)
    return [line for line in of_run if line.rank == lowest]


class _Replay:
    """A dry run in progress: processes the log line by line."""

    def __init__(self, subscriber: Listening[Never]) -> None:
        self._listeners = listeners([subscriber])
        self._answers: list[Answered] = []
        self._asked: dict[str, int] = {}
        self._cancelled: tuple[int, str] | None = None
        """The phase that a verdict ended; the log's further lines of it are skipped."""
        tensors = Tensors(Spec({}, {}, torch.device("cpu")), nn.Identity(), None, None)
        tensors.lose(_NO_WEIGHTS)
        self._state = TrainState(progress=Progress(), tensors=tensors, key=Key(seed=0))

    def process(self, line: Line) -> bool:
        """Process the next line; return False where the subscriber has ended the fit."""
        event = line.event
        if isinstance(event, HistoryReplaced):
            before = self._state.history[: event.kept]
            self._put(history=History((*before, *(past.stats() for past in event.history))))
        if self._cancelled == (line.epoch, line.label) and not isinstance(event, (FitStarted, EpochStarted)):
            return True
        match event:
            case RunStarted(config=config):
                seed = config.get("seed")
                self._put(key=Key(seed=seed if isinstance(seed, int) else 0))
            case FitStarted(epochs=epochs, until=until, resumed=resumed):
                self._move(line, "before_fit", epochs=epochs, until=until)
                return resumed or self._ask("before_fit")
            case EpochStarted():
                self._cancelled = None
                self._move(line, "before_epoch")
                return self._ask("before_epoch")
            case BatchFinished():
                return self._batch(line, event)
            case EpochFinished():
                self._put(history=History((*self._state.history, stats_of(line, event))))
                self._move(line, "after_epoch")
                return self._ask("after_epoch")
            case FitFinished(outcome="completed"):
                self._move(line, "after_fit")
                return self._ask("after_fit")
            case _:
                pass
        return True

    def _batch(self, line: Line, event: BatchFinished) -> bool:
        train = line.phase == "train"
        self._move(line, "batch", batch=line.batch - 1, step=line.step - train)
        batch = _Unrecorded("batch")
        behind = len(self._answers)
        if not self._ask("before_batch", batch):
            return False
        if any(answer.verdict is not None for answer in self._answers[behind:]):
            return True
        self._move(line, "batch")
        has_loss = event.has_loss is not False
        output = BatchOutput(torch.tensor(event.loss), _Unrecorded("predictions"), dict(event.metrics), has_loss)
        return self._ask("after_batch", batch, output)

    def _ask(self, event: Event, *rest: object) -> bool:
        heard_by = self._listeners[event]
        if not heard_by:
            return True
        state = self._state
        self._asked[event] = self._asked.get(event, 0) + 1
        torch.default_generator.manual_seed(state.key.derived(EVENTS.index(event), state.progress.step))
        after, verdict, *_ = publish(event, heard_by, state, *rest)
        answer = Answered(
            event=event,
            progress=state.progress,
            verdict=verdict,
            logged=after.logged,
            lr_scale=after.lr_scale,
            key_changed=after.key != state.key,
        )
        if verdict is not None or after.logged or after.lr_scale != state.lr_scale or answer.key_changed:
            self._answers.append(answer)
        self._state = after
        self._put(logged=())
        if verdict is not None and verdict.scope == "epoch":
            self._cancelled = state.progress.epoch, state.progress.data or state.progress.phase
        return not isinstance(verdict, CancelFit)

    def _move(self, line: Line, at: Place, **changes: int | None) -> None:
        progress = self._state.progress
        given = {name: getattr(line, name) for name in ("epoch", "phase", "batch", "step", "samples", "data")}
        goal = {"epochs": progress.epochs, "until": progress.until}
        self._put(progress=Progress(at=at, **{**goal, **given, **changes}))

    def _put(self, **changes: object) -> None:
        self._state = self._state.model_copy(update=changes)

    def result(self) -> DryRun:
        """Return the result."""
        asked = self._asked
        batches: tuple[Event, ...] = ("before_batch", "after_batch")
        unheard: list[Event] = [event for event in batches if self._listeners[event] and event not in asked]
        return DryRun(
            answers=tuple(self._answers), asked=FrozenMapping(asked), unheard=tuple(unheard), state=self._state
        )
