"""The log as a sink: what there is to tell of a training, to each of its targets."""

from __future__ import annotations

import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TextIO, get_args

from nntrain.errors import ConfigError, LogError, LogWarning
from nntrain.log.line import Line
from nntrain.log.reading import LogReadError, read
from nntrain.log.readout import values_of, waits
from nntrain.log.replay import replay
from nntrain.log.stamping import LiveRun, new_run_id, process_rank
from nntrain.log.story import Told, begins_anew, is_fresh, tell
from nntrain.log.targets import BoundLogger, FileTarget, Target, target_of
from nntrain.sinks.interest import Interest
from nntrain.sinks.transition import BatchRan, RunInfo, Transition
from nntrain.values.record import evolved

Sync = Literal["line", "epoch", "end", "never"]
_GROUP: Final = 64
_GROUP_SECONDS: Final = 0.5


class JsonLog:
    """Write the events of a training to each of `targets`, one JSON object a line. A sink, and a context manager.

    A target is a path (to which lines are appended), an open text stream like `sys.stdout`, an application's own
    structlog logger, or any `Target`. Each training from its beginning is a run, with its own `run_id`, and `seq` from
    0; one that goes on, in the same log or in another process with `resume`, continues its run.

    A line that cannot be written never ends a training: it is counted in `lost`, the next line that gets through says
    how many were lost, and the log fails as any sink does, which is reported once and counted in the outcome.

    Args:
        targets: where to, all at once.
        every: of how many batches of a phase one is told: a number, `"all"`, or None for none. Their numbers are read
            back in groups.
        sync: when lines are to be on the disk (`fsync`): each `"line"` before training goes on; at each `"epoch"`'s end
            and the run's, or at the run's `"end"` only, without waiting for it; or `"never"`. Closing waits.
        run_id: a UUID for the first run; by default a new one, ordered by time.
        resume: go on with the last run in the first target, which is a file, or with the run `run_id` in it, when a
            training that goes on is told. Where there is none, a run begins as always.
        rank: of this process, among those that train together; by default that of `torch.distributed`.

    Raises `LogError` at once where a target cannot be written, and `ConfigError` for what cannot be meant.
    """

    def __init__(
        self,
        *targets: str | os.PathLike[str] | TextIO | BoundLogger | Target,
        every: int | Literal["all"] | None = None,
        sync: Sync = "epoch",
        run_id: str | None = None,
        resume: bool = False,
        rank: int | None = None,
    ) -> None:
        self._every = _interval(every)
        _check(targets, sync, run_id, rank)
        self._again: Callable[..., JsonLog] = partial(JsonLog, every=every, sync=sync, rank=rank)
        self._sync: Sync = sync
        self._rank = process_rank() if rank is None else rank
        self._outlets: list[_Outlet] = []
        self._given_id = run_id
        self._resumable: LiveRun | None = None
        self._runs: dict[int, LiveRun] = {}
        self._pending: list[tuple[LiveRun, BatchRan]] = []
        self._process = os.getpid()
        self._lock = threading.RLock()
        try:
            for target in targets:
                self._outlets.append(_Outlet(target_of(target), sync))
            if resume:
                self._resumable = self._found(run_id)
        except BaseException:
            self.close()
            raise

    @property
    def interest(self) -> Interest:
        """What it wants to be told: batches in groups, without a state for each."""
        return Interest(every_batch=self._every, batches=self.batches)

    @property
    def path(self) -> Path | None:
        """The path of the first target that is a file."""
        return next((one.target.path for one in self._outlets if isinstance(one.target, FileTarget)), None)

    @property
    def lost(self) -> int:
        """How many lines were lost, of all targets together."""
        return sum(one.lost for one in self._outlets)

    # -- told by the machine --------------------------------------------------------------------------------------

    def __call__(self, transition: Transition, /) -> None:
        """Write what a transition comes to. Raises `LogError` where a line is lost."""
        with self._turn():
            run = self._run_of(transition)
            run.told, sayings = tell(run.told, transition, self._every)
            lines: list[Line] = []
            for saying in sayings:
                if isinstance(saying, BatchRan):
                    self._pending.append((run, saying._replace(when=time.monotonic())))
                    if self._due(saying):
                        lines += self._read_out()
                else:
                    lines += self._read_out()
                    lines.append(run.line(saying))
            self._write(lines)

    def batches(self, info: RunInfo, ran: Sequence[BatchRan], /) -> None:
        """Write batches that merely ran. Raises `LogError` where a line is lost."""
        with self._turn():
            run = self._runs.get(id(info))
            if run is None or run.told.place is None:
                return  # in a process that was forked amid a phase, which is the other's
            last = ran[-1]
            place = evolved(run.told.place, batch=last.batch, step=last.step, samples=last.samples)
            run.told = run.told._replace(place=place)
            self._write(chain(self._read_out(), run.batch_lines(ran)))

    def _turn(self) -> threading.RLock:
        """Give the lock; in a process that was forked, begin anew: the run, and what waits, are the other's."""
        if os.getpid() != self._process:
            self._process, self._lock = os.getpid(), threading.RLock()
            self._runs, self._pending, self._resumable, self._given_id = {}, [], None, None
            for outlet in self._outlets:
                outlet.lost = outlet.unsaid = 0
        return self._lock

    def _due(self, ran: BatchRan) -> bool:
        """Tell whether to read the numbers of the batches that wait: at once where that waits for no device."""
        if not any(map(waits, values_of(ran))):
            return True
        return len(self._pending) >= _GROUP or time.monotonic() - self._pending[0][1].when > _GROUP_SECONDS

    def _read_out(self) -> Iterator[Line]:
        """Give the lines of the batches that wait."""
        while self._pending:
            run = self._pending[0][0]
            mine = [one for owner, one in self._pending if owner is run]
            self._pending = [waiting for waiting in self._pending if waiting[0] is not run]
            yield from run.batch_lines(mine)

    def _write(self, lines: Iterable[Line]) -> None:
        """Hand each line to every target, and raise `LogError` where some were lost."""
        failures = self._taken(lines)
        if failures:
            for run in self._runs.values():
                run.doubtful = True
        elif any(outlet.recovered for outlet in self._outlets):
            failures = self._taken(line for run in self._runs.values() for line in run.assured())
        if failures:
            raise LogError(
                "; ".join(str(failure) for failure in failures), lost_lines=sum(one.lost_lines for one in failures)
            ) from failures[0].__cause__

    def _taken(self, lines: Iterable[Line]) -> list[LogError]:
        """Hand lines over one by one: none is held while the next is made, so the garbage collector has no work."""
        outlets = self._outlets
        for outlet in outlets:
            outlet.begin()
        for line in lines:
            for outlet in outlets:
                outlet.take(line)
        return [failure for outlet in outlets if (failure := outlet.end()) is not None]

    # -- runs -----------------------------------------------------------------------------------------------------

    def _run_of(self, transition: Transition) -> LiveRun:
        """Give the run that a transition is of: the learner's, one that is resumed, or a new one."""
        info = transition.run
        run = self._runs.get(id(info))
        if run is not None and not begins_anew(run.told, transition):
            return run
        if run is None and self._resumable is not None and not is_fresh(transition):
            run, self._resumable = self._resumable, None
        else:
            run = LiveRun(self._given_id or new_run_id(), began=time.monotonic(), rank=self._rank)
        self._given_id = None
        run.info = info
        self._runs[id(info)] = run
        return run

    def _found(self, run_id: str | None) -> LiveRun | None:
        """Give the run to go on with, out of the first target."""
        path = self.path
        if path is None or path != getattr(self._outlets[0].target, "path", None):
            raise ConfigError("resume=True goes on with a run in a file; give the file's path as the first target.")
        try:
            lines = [line for line in read(path) if line.rank == self._rank]
        except LogReadError as error:
            error.add_note("nntrain: resume=True reads the run that it goes on with; without it a run begins")
            raise
        wanted = run_id or (lines[-1].run_id if lines else None)
        for run in replay(lines):
            if run.run_id == wanted:
                told = Told(begun=True, history=None if run.missing else run.history)
                return LiveRun(
                    run.run_id,
                    began=time.monotonic() - run.last.elapsed_s,
                    rank=self._rank,
                    seq=run.last.seq + 1,
                    told=told,
                )
        return None

    # -- its end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what waits, and close the targets; streams and loggers stay open. Lines after this are lost.

        What goes wrong is a `LogWarning`: the training is over, and not to be ended.
        """
        with self._turn():
            try:
                self._write(self._read_out())
            except LogError as error:
                warnings.warn(str(error), LogWarning, stacklevel=2)
            for outlet in self._outlets:
                outlet.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., JsonLog], tuple[Target, ...]]:
        """Give what makes a log of the same targets: another process tells of runs of its own."""
        return self._again, tuple(outlet.target for outlet in self._outlets)


class _Outlet:
    """A target, and how many lines it lost."""

    def __init__(self, target: Target, sync: Sync) -> None:
        self.target = target
        self.lost = 0
        self.recovered = False
        """Whether a line got through that came after lost ones, in the group that was taken last."""
        self._sync: Sync = sync
        self._synced = _SYNCED[sync]
        self.unsaid = 0
        """How many were lost since the last line that got through."""
        self._closed = False
        self.begin()

    def begin(self) -> None:
        """Begin a group of lines."""
        self.recovered = False
        self._failure: Exception | None = None
        self._lost_now = 0
        self._due = self._sync == "line"

    def take(self, line: Line) -> None:
        """Write a line, or count it."""
        try:
            if self._closed:
                raise OSError("the log is closed")
            self.target.write(evolved(line, lost_lines=self.unsaid) if self.unsaid else line)
        except Exception as error:  # noqa: BLE001 - whatever a target raises costs the line, and is told
            self._lost_now += 1
            self.unsaid += 1
            self._failure = error
        else:
            if self.unsaid:
                self.recovered = True
                self.unsaid = 0
            if line.event.event in self._synced:
                self._due = True

    def end(self) -> LogError | None:
        """Flush, and ask for the disk where that is due. Gives what went wrong, if something did."""
        self.lost += self._lost_now
        if not self._closed:
            try:
                self.target.flush()
                if self._due:
                    self.target.sync()
                if self._sync == "line":
                    self.target.settle()
            except Exception as error:  # noqa: BLE001 - as above
                self._failure = error
        if self._failure is None:
            return None
        told = LogError(f"the log {self._name()} cannot be written ({self._failure})", lost_lines=self._lost_now)
        told.__cause__ = self._failure
        return told

    def _name(self) -> str:
        return str(getattr(self.target, "path", type(self.target).__name__))

    def close(self) -> None:
        """Close the target, once."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._sync != "never":
                self.target.sync()
            self.target.close()
        except Exception as error:  # noqa: BLE001 - as above
            warnings.warn(f"the log {self._name()} could not be closed well: {error}", LogWarning, stacklevel=3)


_SYNCED: Final[Mapping[Sync, frozenset[str]]] = {
    "line": frozenset(),
    "epoch": frozenset({"epoch_finished", "fit_finished", "run_failed", "run_finished"}),
    "end": frozenset({"run_failed", "run_finished"}),
    "never": frozenset(),
}
"""The events after which a log waits for the disk."""


def _interval(every: object) -> int:
    if every is None:
        return 0
    if every == "all":
        return 1
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ConfigError(f"every is {every!r}; expected 'all', a whole number from 1 up, or None for no batches.")
    return every


def _check(targets: Sequence[object], sync: object, run_id: object, rank: object) -> None:
    if not targets:
        raise ConfigError("A JsonLog needs a target: a path, an open stream like sys.stdout, or a structlog logger.")
    if sync not in get_args(Sync):
        raise ConfigError(f"sync is {sync!r}; expected one of {', '.join(map(repr, get_args(Sync)))}.")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 0):
        raise ConfigError(f"rank is {rank!r}; expected a whole number from 0 up.")
    if run_id is not None and not _is_uuid(run_id):
        raise ConfigError(
            f"run_id is {run_id!r}; expected a UUID like {uuid.UUID(int=1)}, in lower case, or None for a new one."
        )


def _is_uuid(given: object) -> bool:
    try:
        return str(uuid.UUID(str(given))) == given
    except ValueError:
        return False
