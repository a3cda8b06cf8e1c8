"""Runs rebuilt from the lines of a log, each with the history that its training state has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from nntrain.log.events import (
    BatchFinished,
    CancelledEvent,
    EpochFinished,
    EpochStarted,
    FitFinished,
    FitStarted,
    HistoryReplaced,
    RunFailed,
    RunFinished,
    RunStarted,
)
from nntrain.log.line import Line
from nntrain.values.history import EpochStats, History
from nntrain.values.log_event import LogEvent, WarningEvent
from nntrain.values.looks import LOOKS
from nntrain.values.record import FrozenMapping, Record, evolved

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

    Of a run on several processes (`world_size`) these are what the lowest rank has logged, and `ranks` has the run as
    each of them has, in their order; `rank` says which. The losses of batches are those of the rank's own part of them,
    the history is of all. It has failed where any rank says so. Of one process `ranks` is empty.
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
    world_size: int = 1
    ranks: tuple[Run, ...] = ()

    @property
    def rank(self) -> int:
        """The rank whose log this is."""
        return self.last.rank

    @property
    def elapsed_s(self) -> float:
        """The seconds from the run's beginning to its last line."""
        return self.last.elapsed_s


def replay(lines: Iterable[Line]) -> tuple[Run, ...]:
    """Return the runs that the lines describe, in the order in which they began.

    Lines of several logs may be chained, and those of several ranks mixed; the lines of each run and rank must be in
    order, as they are in a file.
    """
    builders: dict[tuple[str, int], RunFold] = {}
    for line in lines:
        key = line.run_id, line.rank
        if key not in builders:
            builders[key] = RunFold(line)
        builders[key].add(line)
    found: dict[str, list[Run]] = {}
    for (run_id, _), builder in builders.items():
        found.setdefault(run_id, []).append(builder.run())
    return tuple(_over_ranks(sorted(runs, key=lambda run: run.rank)) for runs in found.values())


def _over_ranks(runs: Sequence[Run]) -> Run:
    """Return one run of those that its ranks have logged."""
    first = runs[0]
    if len(runs) == 1 and first.world_size == 1:
        return first
    failed = any(run.outcome == "failed" for run in runs)
    return evolved(first, ranks=tuple(runs), outcome="failed" if failed else first.outcome)


def seconds_in_batches(run: Run) -> float:
    """Return how many seconds lie between the beginnings of phases and their last logged batches, all together.

    0 where no batches are logged. Ranks wait for each other in training: where they differ, it is by what they do
    by themselves, as in eval.
    """
    total = began = 0.0
    last: float | None = None
    for line in sorted((*run.events, *run.batches), key=lambda line: line.seq):
        if isinstance(line.event, BatchFinished):
            last = line.elapsed_s
        elif isinstance(line.event, EpochStarted):
            total += 0.0 if last is None else last - began
            began, last = line.elapsed_s, None
    return total + (0.0 if last is None else last - began)


def verdicts_of(run: Run, rank: int) -> int:
    """Return how many verdicts of a run were those of a rank's subscribers."""
    return sum(isinstance(line.event, CancelledEvent) and line.event.by_rank == rank for line in run.events)


def is_echo(event: LogEvent) -> bool:
    """Return whether an event tells of another rank's failure, which ended this one too."""
    return isinstance(event, RunFailed) and event.error_type.rpartition(".")[2] == "RankError"


def of_other_ranks(run: Run) -> tuple[Line, ...]:
    """Return what happened on other ranks than the run's own, and is not in its log: failures, warnings and the like.

    What tells of another rank's failure is left out.
    """
    known = [line.event for line in run.events]
    return tuple(
        line
        for other in run.ranks
        if other.rank != run.rank
        for line in other.events
        if isinstance(line.event, (RunFailed, WarningEvent)) and line.event not in known and not is_echo(line.event)
    )


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
        self._world_size = 1
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
            case RunStarted(config=config, world_size=world_size):
                self._config, self._world_size = config, world_size or 1
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
            world_size=self._world_size,
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
