"""The log as a sink: it writes the events of a training to each of its targets."""

from __future__ import annotations

import math
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

from structlog.typing import BindableLogger

from nntrain.errors import ConfigError, LogError, LogWarning
from nntrain.log.last_run import LastRun, last_run
from nntrain.log.line import Line
from nntrain.log.live_run import LiveRun, new_run_id
from nntrain.log.reading import LogReadError
from nntrain.log.readout import values_of, waits
from nntrain.log.targets import FileTarget, Target, target_of
from nntrain.log.transition_events import LogState, events_of, starts_other_training, starts_training
from nntrain.ranks.agreeing import first_said
from nntrain.ranks.world import current_world, known_world
from nntrain.sinks.interest import Interest
from nntrain.sinks.transition import BatchRan, RunInfo, Transition
from nntrain.values.numbers import is_count
from nntrain.values.record import evolved

Sync = Literal["line", "epoch", "end", "never"]
_GROUP: Final = 64
_GROUP_SECONDS: Final = 0.5


class JsonLog:
    """Write the events of a training to each of `targets`, one JSON object a line. A sink, and a context manager.

    A target is a path (to which lines are appended), an open text stream like `sys.stdout`, an application's own
    structlog logger, or any `Target`. A training from its beginning is a new run, with its own `run_id`, and `seq`
    from 0. A training that is continued, in the same log or in another process with `resume`, continues its run.

    A line that cannot be written never ends a training: it is counted in `lost`, the next line that is written says how
    many were lost, and the log fails as any sink does, which is reported once and counted in the outcome.

    Of several processes that train together each writes a file of its own, under the same `run_id`: rank 0 the one at
    the path, `run.jsonl`, and rank 2 `run.rank2.jsonl` beside it; `read` merges them. A stream or logger gets the lines
    of all ranks, an exporter those of rank 0.

    Args:
        targets: where to write; each line goes to all of them.
        every: log every Nth batch of a phase: a number, `"all"`, or None for no batches. Their losses and metrics are
            read from the device in groups.
        every_s: log a batch, too, where so many seconds have passed since the last that was logged, or since the log
            was begun: then whoever follows the log sees it move. Which batches these are is the clock's to say.
        sync: when lines are brought to the disk (`fsync`): after each `"line"`, before the training goes on; at the end
            of each `"epoch"` and of the run, or at the run's `"end"` only, not waited for; or `"never"`. Closing waits.
        run_id: a UUID for the first run; by default a new one, ordered by time.
        resume: if the training is continued, continue the last run in the first target, which must be a file, or the
            run `run_id` in it. If there is none, a new run begins. The file is read from its end; where that does not
            tell the history of a long log, the whole of it is written again, in a `history_replaced`.
        rank: the rank of this process among those that train together; by default that of `torch.distributed`, or of
            the launcher, such as torchrun. Where it is given, the paths are those of this rank's files as they are.

    Raises `LogError` at once if a target cannot be written, and `ConfigError` for an invalid argument, and when a fit
    begins for a log that was made before the process was known to be one of several.
    """

    def __init__(
        self,
        *targets: str | os.PathLike[str] | TextIO | BindableLogger | Target,
        every: int | Literal["all"] | None = None,
        every_s: float | None = None,
        sync: Sync = "epoch",
        run_id: str | None = None,
        resume: bool = False,
        rank: int | None = None,
    ) -> None:
        self._every = _interval(every)
        self._every_s = _seconds(every_s)
        self._due = math.inf if self._every_s is None else time.monotonic() + self._every_s
        """When a batch is to be logged next, whichever it is, by `time.monotonic()`."""
        _check(targets, sync, run_id, rank)
        self._remake: Callable[..., JsonLog] = partial(JsonLog, every=every, every_s=every_s, sync=sync, rank=rank)
        self._sync: Sync = sync
        self._world = known_world() if rank is None else None
        self._rank = known_world().rank if rank is None else rank
        file_rank = self._rank if rank is None else 0
        self._about = _file_name(targets)
        self._outlets: list[_Outlet] = []
        self._given_id = run_id
        self._resumable: LiveRun | None = None
        self._runs: dict[int, LiveRun] = {}
        self._pending: list[tuple[LiveRun, BatchRan]] = []
        self._process = os.getpid()
        self._lock = threading.RLock()
        try:
            for target in targets:
                made = target_of(target, file_rank)
                self._outlets.append(_Outlet(made, sync, skipped=made.of_first_rank and file_rank > 0))
            if resume:
                self._resumable = self._run_to_resume(run_id, file_rank, targets[0])
        except BaseException:
            self.close()
            raise

    @property
    def interest(self) -> Interest:
        """What it wants to be told: batches in groups, without a state for each; and where `every_s` is due, one."""
        wants = None if self._every_s is None else self._is_due
        return Interest(every_batch=self._every, batches=self.batches, wants=wants, check=self._check_world)

    def _is_due(self, *_: object) -> bool:
        return time.monotonic() >= self._due

    def _logged_batch(self) -> None:
        """Note that a batch is logged now."""
        if self._every_s is not None:
            self._due = time.monotonic() + self._every_s

    @property
    def path(self) -> Path | None:
        """The path of the first target that is a file."""
        return next((one.target.path for one in self._outlets if isinstance(one.target, FileTarget)), None)

    @property
    def lost(self) -> int:
        """How many lines were lost, of all targets together."""
        return sum(one.lost for one in self._outlets)

    # -- called by the machine ------------------------------------------------------------------------------------

    def __call__(self, transition: Transition, /) -> None:
        """Write the events of a transition. Raises `LogError` if a line is lost."""
        with self._lock_of_process():
            run = self._run_of(transition)
            run.logged, events = events_of(run.logged, transition, 1 if self._is_due() else self._every)
            lines: list[Line] = []
            for event in events:
                if isinstance(event, BatchRan):
                    self._logged_batch()
                    self._pending.append((run, event._replace(when=time.monotonic())))
                    if self._should_read(event):
                        lines += self._pending_lines()
                else:
                    lines += self._pending_lines()
                    lines.append(run.line(event))
            self._write(lines)

    def batches(self, info: RunInfo, ran: Sequence[BatchRan], /) -> None:
        """Write unwatched batches. Raises `LogError` if a line is lost."""
        with self._lock_of_process():
            run = self._runs.get(id(info))
            if run is None or run.logged.progress is None:
                return  # this process was forked during a phase, which the parent process logs
            self._logged_batch()
            last = ran[-1]
            progress = evolved(run.logged.progress, batch=last.batch, step=last.step, samples=last.samples)
            run.logged = run.logged._replace(progress=progress)
            self._write(chain(self._pending_lines(), run.batch_lines(ran)))

    def _lock_of_process(self) -> threading.RLock:
        """Return the lock. In a forked process, first drop the runs and pending batches: the parent logs them."""
        if os.getpid() != self._process:
            self._process, self._lock = os.getpid(), threading.RLock()
            self._runs, self._pending, self._resumable, self._given_id = {}, [], None, None
            for outlet in self._outlets:
                outlet.lost = outlet.unreported = 0
        return self._lock

    def _should_read(self, ran: BatchRan) -> bool:
        """Return whether to read the pending batches' values now: on the CPU at once, on a device in groups."""
        if not any(map(waits, values_of(ran))):
            return True
        return len(self._pending) >= _GROUP or time.monotonic() - self._pending[0][1].when > _GROUP_SECONDS

    def _pending_lines(self) -> Iterator[Line]:
        """Yield the lines of the pending batches."""
        while self._pending:
            run = self._pending[0][0]
            ran = [one for owner, one in self._pending if owner is run]
            self._pending = [pending for pending in self._pending if pending[0] is not run]
            yield from run.batch_lines(ran)

    def _write(self, lines: Iterable[Line]) -> None:
        """Write each line to every target. Raises `LogError` if some were lost."""
        failures = self._write_group(lines)
        if failures:
            for run in self._runs.values():
                run.lines_lost = True
        elif any(outlet.recovered for outlet in self._outlets):
            failures = self._write_group(line for run in self._runs.values() for line in run.history_lines())
        if failures:
            raise LogError(
                "; ".join(str(failure) for failure in failures), lost_lines=sum(one.lost_lines for one in failures)
            ) from failures[0].__cause__

    def _write_group(self, lines: Iterable[Line]) -> list[LogError]:
        """Write lines, and return what failed. Each is freed before the next is made: no work for the collector."""
        outlets = self._outlets
        for outlet in outlets:
            outlet.begin()
        for line in lines:
            for outlet in outlets:
                outlet.write(line)
        return [failure for outlet in outlets if (failure := outlet.end()) is not None]

    # -- runs -----------------------------------------------------------------------------------------------------

    def _run_of(self, transition: Transition) -> LiveRun:
        """Return the run of a transition: one that is being logged, a resumed one, or a new one."""
        info = transition.run
        run = self._runs.get(id(info))
        if run is not None and not starts_other_training(run.logged, transition):
            return run
        resumed = None
        if run is None and not starts_training(transition):
            resumed = self._resumable
        run_id = first_said(f"run_id/{self._about}", resumed.run_id if resumed else self._given_id or new_run_id())
        if resumed is not None and resumed.run_id == run_id:
            run, self._resumable = resumed, None
        else:
            run = LiveRun(run_id, began=time.monotonic(), rank=self._rank)
        self._given_id = None
        run.info = info
        self._runs[id(info)] = run
        return run

    def _check_world(self, _: object) -> None:
        """Raise `ConfigError` where the process is another rank than it was known to be when the log was made."""
        made, now = self._world, current_world()
        if made is None or now.single or now == made:
            return
        raise ConfigError(
            f"This JsonLog was made when its process was known as rank {made.rank} of {made.size}; it is rank "
            f"{now.rank} of {now.size}, and two processes would write one file. Make it after "
            f"torch.distributed.init_process_group, or start the script by torchrun, which says who is which."
        )

    def _run_to_resume(self, run_id: str | None, rank: int, given: object) -> LiveRun | None:
        """Return the run to continue, read from the first target; None if there is none.

        A rank above 0 goes on with the run that rank 0 goes on with, as `given` has it, if it can read that: it may
        have had no part in it.
        """
        path = self.path
        if path is None or path != getattr(self._outlets[0].target, "path", None):
            raise ConfigError("resume=True goes on with a run in a file; give the file's path as the first target.")
        try:
            first: LastRun | None = None
            if rank and isinstance(given, (str, os.PathLike)) and Path(given).is_file():
                first = last_run(Path(given), run_id, 0)
                run_id = run_id if first is None else first.last.run_id
            found = last_run(path, run_id, self._rank)
        except LogReadError as error:
            error.add_note("nntrain: resume=True reads the run that it goes on with; without it a run begins")
            raise
        if found is None:
            if first is None:
                return None
            began = time.monotonic() - first.last.elapsed_s
            return LiveRun(first.last.run_id, began=began, rank=self._rank)
        last = found.last
        return LiveRun(
            last.run_id,
            began=time.monotonic() - last.elapsed_s,
            rank=self._rank,
            seq=last.seq + 1,
            logged=LogState(begun=True, history=found.history),
        )

    # -- its end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write the pending batches, and close the targets; streams and loggers stay open. Lines after this are lost.

        An error becomes a `LogWarning`: the training is over, and its result should not be lost.
        """
        with self._lock_of_process():
            try:
                self._write(self._pending_lines())
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
        """Return how to make a log of the same targets: another process logs its own runs."""
        return self._remake, tuple(outlet.target for outlet in self._outlets)


class _Outlet:
    """A target, and the count of the lines that it lost."""

    def __init__(self, target: Target, sync: Sync, *, skipped: bool = False) -> None:
        self.target = target
        self._skipped = skipped
        self.lost = 0
        self.recovered = False
        """Whether, in the last group, a line was written after lines had been lost."""
        self._sync: Sync = sync
        self._sync_events = _SYNC_EVENTS[sync]
        self.unreported = 0
        """How many lines were lost since the last one that was written."""
        self._closed = False
        self.begin()

    def begin(self) -> None:
        """Begin a group of lines."""
        self.recovered = False
        self._failure: Exception | None = None
        self._lost_in_group = 0
        self._sync_due = self._sync == "line"

    def write(self, line: Line) -> None:
        """Write a line, or count it as lost."""
        if self._skipped:
            return
        try:
            if self._closed:
                raise OSError("the log is closed")
            self.target.write(evolved(line, lost_lines=self.unreported) if self.unreported else line)
        except Exception as error:  # noqa: BLE001 - whatever a target raises, the line is lost, and the error reported
            self._lost_in_group += 1
            self.unreported += 1
            self._failure = error
        else:
            if self.unreported:
                self.recovered = True
                self.unreported = 0
            if line.event.event in self._sync_events:
                self._sync_due = True

    def end(self) -> LogError | None:
        """Flush, and sync if a line of the group asks for it. Returns the error, if there was one."""
        self.lost += self._lost_in_group
        if not self._closed and not self._skipped:
            try:
                self.target.flush()
                if self._sync_due:
                    self.target.sync()
                if self._sync == "line":
                    self.target.settle()
            except Exception as error:  # noqa: BLE001 - as above
                self._failure = error
        if self._failure is None:
            return None
        failure = LogError(
            f"the log {self._name()} cannot be written ({self._failure})", lost_lines=self._lost_in_group
        )
        failure.__cause__ = self._failure
        return failure

    def _name(self) -> str:
        return str(getattr(self.target, "path", type(self.target).__name__))

    def close(self) -> None:
        """Close the target, once."""
        if self._closed:
            return
        self._closed = True
        if self._skipped:
            return
        try:
            if self._sync != "never":
                self.target.sync()
            self.target.close()
        except Exception as error:  # noqa: BLE001 - as above
            warnings.warn(f"the log {self._name()} could not be closed well: {error}", LogWarning, stacklevel=3)


_SYNC_EVENTS: Final[Mapping[Sync, frozenset[str]]] = {
    "line": frozenset(),
    "epoch": frozenset({"epoch_finished", "fit_finished", "run_failed", "run_finished"}),
    "end": frozenset({"run_failed", "run_finished"}),
    "never": frozenset(),
}
"""The events after which a log is brought to the disk."""


def _interval(every: object) -> int:
    if every is None:
        return 0
    if every == "all":
        return 1
    if not is_count(every, 1):
        raise ConfigError(f"every is {every!r}; expected 'all', a whole number from 1 up, or None for no batches.")
    return every


def _seconds(every_s: object) -> float | None:
    if every_s is None:
        return None
    if isinstance(every_s, bool) or not isinstance(every_s, int | float) or not 0 < every_s < math.inf:
        raise ConfigError(f"every_s is {every_s!r}; expected a number of seconds above 0, or None.")
    return float(every_s)


def _check(targets: Sequence[object], sync: object, run_id: object, rank: object) -> None:
    if not targets:
        raise ConfigError("A JsonLog needs a target: a path, an open stream like sys.stdout, or a structlog logger.")
    if sync not in get_args(Sync):
        raise ConfigError(f"sync is {sync!r}; expected one of {', '.join(map(repr, get_args(Sync)))}.")
    if rank is not None and not is_count(rank, 0):
        raise ConfigError(f"rank is {rank!r}; expected a whole number from 0 up.")
    if run_id is not None and not _is_uuid(run_id):
        raise ConfigError(
            f"run_id is {run_id!r}; expected a UUID like {uuid.UUID(int=1)}, in lower case, or None for a new one."
        )


def _file_name(targets: Sequence[object]) -> str:
    """Return the name of the first target that is a path, by which ranks know that they write the same log."""
    return next((Path(one).name for one in targets if isinstance(one, (str, os.PathLike))), "")


def _is_uuid(given: object) -> bool:
    try:
        return str(uuid.UUID(str(given))) == given
    except ValueError:
        return False
