"""Runs rebuilt from the lines of a log, each with the history that its training state has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal

from nntrain.log.events import (
    BatchFinished,
    EpochFinished,
    FitFinished,
    FitStarted,
    HistoryReplaced,
    RunFailed,
    RunFinished,
    RunStarted,
)
from nntrain.log.line import Line
from nntrain.values.history import EpochStats, History
from nntrain.values.log_event import LogEvent
from nntrain.values.looks import LOOKS
from nntrain.values.record import FrozenMapping, Record

RunOutcome = Literal["running", "completed", "cancelled", "failed"]

Ending = Literal["completed", "cancelled", "failed", "interrupted", "unknown"]
"""`interrupted`: by Ctrl-C. `unknown`: the log does not say, as that of a killed process."""

_OUTCOMES: Final[Mapping[Ending, RunOutcome]] = {
    "completed": "completed",
    "cancelled": "cancelled",
    "failed": "failed",
    "interrupted": "failed",
    "unknown": "running",
}


class Run(Record, frozen=True):
    """A run, rebuilt from its lines.

    `history` is the history of the last logged state. `epochs` is the goal of the fit, in finished epochs; of one with
    a goal in steps it is 0, and `until` is the number of steps that lie behind when it is done. `last` is
    the last line. `batches` are the lines of batches, and `looks` those of what was seen within phases (activations,
    throughput); if the training went back to an earlier state, without those after that state. `events` are all other
    lines. `missing` counts the lines that were lost. `outcome` is
    `"running"` until the log says how the run ended.
    """

    run_id: str
    config: FrozenMapping[object] = FrozenMapping()
    history: History = History()
    epochs: int = 0
    until: int | None = None
    outcome: RunOutcome = "running"
    started: datetime
    last: Line
    events: tuple[Line, ...] = ()
    batches: tuple[Line, ...] = ()
    looks: tuple[Line, ...] = ()
    missing: int = 0

    @property
    def elapsed_s(self) -> float:
        """The seconds from the run's beginning to its last line."""
        return self.last.elapsed_s


def replay(lines: Iterable[Line]) -> tuple[Run, ...]:
    """Return the runs that the lines describe, in the order in which they began.

    Of a run of many processes the lines of the lowest rank are used. Lines of several logs may be chained; the lines
    of each run must be in order, as they are in a file.
    """
    builders: dict[tuple[str, int], RunFold] = {}
    for line in lines:
        key = line.run_id, line.rank
        if key not in builders:
            builders[key] = RunFold(line)
        builders[key].add(line)
    lowest: dict[str, int] = {}
    for run_id, rank in builders:
        lowest[run_id] = min(rank, lowest.get(run_id, rank))
    return tuple(builders[run_id, rank].run() for run_id, rank in lowest.items())


class RunFold:
    """What the lines of one run have said so far. `add` takes them, the first one too.

    Without `keep_lines` the run has no `events`, `batches` and `looks`, and so takes little memory however long it is.
    """

    def __init__(self, first: Line, *, keep_lines: bool = True) -> None:
        self.last: Line = first
        self.missing: int = 0
        self._first = first
        self._keep_lines = keep_lines
        self._next_seq = first.seq
        self._config: Mapping[str, Any] = {}
        self._history: list[EpochStats] = []
        self._epochs = 0
        self._until: int | None = None
        self._sets: dict[str, int] = {}
        """The names of the sets that are evaluated, and their order."""
        self._ending: Ending = "unknown"
        self._events: list[Line] = []
        self._batches: list[Line] = []
        self._looks: list[Line] = []

    def add(self, line: Line) -> None:
        """Add the next line."""
        self.missing += max(0, line.seq - self._next_seq)
        self._next_seq = line.seq + 1
        self.last = line
        if self._keep_lines:
            self._lines_like(line.event).append(line)
        self._ending = ending(self._ending, line)
        self._sets.setdefault(line.data, len(self._sets))
        match line.event:
            case RunStarted(config=config):
                self._config = config
            case FitStarted(epochs=epochs, until=until):
                self._epochs, self._until = epochs, until
                self._go_back_to(line)
            case EpochFinished() as event:
                self._history.append(stats_of(line, event))
            case HistoryReplaced(kept=kept, history=history):
                self._history[kept:] = [past.stats() for past in history]
                self._go_back_to(line)
            case _:
                pass

    def _lines_like(self, event: LogEvent) -> list[Line]:
        return (
            self._batches
            if isinstance(event, BatchFinished)
            else self._looks
            if isinstance(event, LOOKS)
            else self._events
        )

    def _go_back_to(self, line: Line) -> None:
        """Drop the batches and looks that come after the place of `line`, where the training goes on."""
        for lines in (self._batches, self._looks):
            while lines and self._place(lines[-1]) > self._place(line):
                lines.pop()

    def _place(self, line: Line) -> tuple[int, bool, int, int]:
        return line.epoch, line.phase == "eval", self._sets[line.data], line.batch

    def run(self) -> Run:
        """Return the run so far."""
        return Run(
            run_id=self._first.run_id,
            config=FrozenMapping(self._config),
            history=History(self._history),
            epochs=self._epochs,
            until=self._until,
            outcome=_OUTCOMES[self._ending],
            started=self._first.timestamp,
            last=self.last,
            events=tuple(self._events),
            batches=tuple(self._batches),
            looks=tuple(self._looks),
            missing=self.missing,
        )


def ending(before: Ending, line: Line) -> Ending:
    """Return how the run ended as of this line; `before` is the answer without it."""
    match line.event:
        case FitStarted():
            return "unknown"
        case FitFinished(outcome=outcome):
            return outcome
        case RunFailed(error_type=error_type):
            return "interrupted" if error_type.rpartition(".")[2] == "KeyboardInterrupt" else "failed"
        case RunFinished() if before == "unknown":
            return "completed"
        case _:
            return before


def phases_of(config: Mapping[str, object]) -> tuple[list[str], dict[str, int]]:
    """Return the phases that an epoch of a run has, by its config, and how many batches each, as far as it says."""
    data = config.get("data")
    phases = [str(name) for name in data] if isinstance(data, Mapping) and "train" in data else ["train", "eval"]
    batches: dict[str, int] = {}
    for phase in phases:
        of = {"train": "train", "eval": "valid"}.get(phase, f"valid/{phase}")
        for given in (config.get(f"{of}_batches"), config.get(f"valid/{phase}_batches")):
            if isinstance(given, int) and not isinstance(given, bool) and given > 0:
                batches[phase] = given
    return phases, batches


def stats_of(line: Line, event: EpochFinished) -> EpochStats:
    """Return the statistics of a finished phase, from its line."""
    return EpochStats(
        epoch=line.epoch,
        phase=line.phase,
        loss=event.loss,
        metrics=event.metrics,
        samples=line.samples,
        batches=event.batches,
        seconds=event.seconds,
        data=line.data,
        has_loss=event.has_loss is not False,
    )
