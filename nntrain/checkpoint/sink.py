"""The sink that saves states: every N steps, epochs or minutes, the best, and the last whenever a fit ends."""

from __future__ import annotations

import atexit
import math
import os
import re
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Final, NamedTuple

from nntrain.checkpoint.content import Flattened, flatten_state, flattener_for
from nntrain.checkpoint.finding import SHARDED_SUFFIX, SUFFIX, Mode, files_of, sign_of, value_at
from nntrain.checkpoint.loading import inspect, verify
from nntrain.checkpoint.saving import Saved, remove_checkpoint, remove_unfinished, save_flattened, save_sharded
from nntrain.checkpoint.together import gathered, on_each, on_first, own_group
from nntrain.errors import CheckpointError, ConfigError
from nntrain.ranks.world import current_world
from nntrain.sinks.interest import Interest
from nntrain.sinks.transition import RunInfo, Transition
from nntrain.values.history import EpochStats
from nntrain.values.log_event import CheckpointSaved, WarningEvent
from nntrain.values.numbers import is_count
from nntrain.values.progress import Phase, Progress
from nntrain.values.record import evolved
from nntrain.values.state import TrainState
from nntrain.values.tensors import Snapshot, Tensors

_BEFORE_ALL: Final = datetime.min.replace(tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


class Checkpoint:
    """Save states into a folder while a learner trains. A sink: it changes no bit of the training.

    The last state of a fit is saved whenever the fit ends: completed, cancelled, by an error, Ctrl-C or SIGTERM. Each
    file is whole and on the disk before older ones are removed; `nntrain.checkpoint.resume` finds the newest. Files are
    named like `checkpoint-000012-step-00003456.safetensors`. Those of exactly such names are the sink's own: which to
    keep, and which is the best, is decided over all of them in the folder. Others stay, copies of yours too.

    Give each training a folder of its own: one that begins anew is refused where the folder has whole checkpoints, be
    they of this very sink. A folder that was removed is made again.

    Args:
        folder: the folder for the files; created where it is missing.
        every_steps: save every so many steps of the optimizer.
        every_epochs: save at the end of every so many epochs.
        every_minutes: save after the first batch that ends so many minutes after the last save.
        keep_last: how many of the newest files to keep; older ones are removed.
        keep_best: also keep the best state by this value, "loss" or a metric of the eval phase, "far/loss" of a set by
            name, or "train/loss"; a better one is saved as soon as the epoch ends. None keeps none.
        mode: whether the best value is the least ("min") or the greatest ("max").
        background: write in a thread, while the training goes on; the training waits for a copy of the tensors only.
            While the file before is still being written, saves by `every_steps` and `every_minutes` are put off, and
            the training waits for the others.
        sharded: save folders, into which each of several processes writes its own parts, and not files that rank 0
            writes: what rank 0's memory has no room for needs it. They are named `....sharded`.
        grace_seconds: how long a last save may take before an error or a signal ends the training; it is given up then.
        strict: whether a failed save ends the training. Otherwise it goes on, the older files stay, and the log and the
            outcome's `sink_failures` say so.

    Raises `ConfigError` for invalid arguments, and `CheckpointError` at once where the folder cannot be created. A step
    raises `ConfigError` where it is to begin a training in a folder with checkpoints.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        every_minutes: float | None = None,
        keep_last: int = 3,
        keep_best: str | None = None,
        mode: Mode = "min",
        background: bool = True,
        sharded: bool = False,
        grace_seconds: float = 30.0,
        strict: bool = False,
    ) -> None:
        _check_whole("every_steps", every_steps)
        _check_whole("every_epochs", every_epochs)
        _check_whole("keep_last", keep_last)
        _check_time("every_minutes", every_minutes)
        _check_time("grace_seconds", grace_seconds)
        sign_of(mode)
        if not (keep_best is None or (isinstance(keep_best, str) and keep_best)):
            raise ConfigError(f"keep_best is {keep_best!r}; expected 'loss', a metric's name, or None.")
        self._strict = strict
        self._every_steps = every_steps or 0
        self._every_epochs = every_epochs or 0
        self._every_seconds = math.inf if every_minutes is None else 60.0 * every_minutes
        self._background = background
        self._grace = grace_seconds
        if not isinstance(sharded, bool):
            raise ConfigError(f"sharded is {sharded!r:.80}; expected True or False.")
        self._files = _Files(Path(folder), keep_last, keep_best, mode, SHARDED_SUFFIX if sharded else SUFFIX)
        self._sharded = sharded
        self._group: Any = None
        """Over which the ranks write folders together: a group of its own, as the training goes on meanwhile."""
        self._clock: Callable[[], float] = time.monotonic
        self._due_at = self._clock() + self._every_seconds
        self._steps_done: int | None = None
        """How many times `every_steps` steps were over at the last transition that was seen."""
        self._shared = False
        """Whether several processes train together: then all find the same batches due, and the first says whether."""
        self._thread: Thread | None = None
        """Writes the file. A daemon: `_wait_for_all`, not Python, waits for it at the end of the process."""
        self._saved: tuple[weakref.ref[Tensors], object] | None = None
        """Identifies the state that was saved last: its tensors, and its `_identity`."""
        self._failure: CheckpointError | None = None
        self._reached: Progress | None = None
        """Where the training stood after the last transition that was seen."""
        _SINKS.add(self)

    @property
    def interest(self) -> Interest:
        """What it wants to be told: batches after which to save."""
        return Interest(
            every_batch=False,
            wants=self.wants,
            strict=self._strict,
            tells=True,
            last_words=True,
            monitors=() if self._files.monitor is None else (self._files.monitor,),
            check=self.check,
        )

    @property
    def folder(self) -> Path:
        """The folder that it saves into."""
        return self._files.folder

    @property
    def newest(self) -> Path | None:
        """The file that was saved last, by this sink or an earlier one; None where there is none yet."""
        return self._files.newest

    def check(self, state: TrainState, /) -> None:
        """Raise `ConfigError` where `state` begins a training, and the folder has checkpoints of another."""
        now = state.progress
        begins = now.step == now.epoch == now.batch == 0 and now.phase == "train" and not state.history
        if not begins or state.loaded or now == self._reached:
            return
        whole = self._files.newest_whole()
        if whole is not None:
            raise ConfigError(
                f"{self.folder} has checkpoints of another training, like {whole.name}. Give this one a folder of its "
                f"own, or go on from them: fit_step(learner, resume({str(self.folder)!r}, learner).state, epochs=...)."
            )

    def wants(self, phase: Phase, step: int, /) -> bool:
        """Return whether the sink wants a batch: its step is one to save at, or the minutes are over."""
        return self._failure is not None or self._is_due(phase, step)

    def _is_due(self, phase: Phase, step: int) -> bool:
        """Return whether a batch is one to save after; alike on all of several processes."""
        due = self._clock() >= self._due_at
        if self._every_steps and phase == "train" and self._steps_done is not None:
            due = due or step // self._every_steps > self._steps_done
        return due and (self._shared or not self._is_writing)

    @property
    def _is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def __call__(self, transition: Transition, /) -> None:
        """Save the state after a transition, where that is due. Raises `CheckpointError` where a save failed."""
        began = time.perf_counter()
        place, state, run = transition.progress, transition.state, transition.run
        if self._clock != run.clock:  # of another run: one of several processes has a clock that is alike on all
            self._clock, self._shared = run.clock, run.clock is not time.monotonic
            self._due_at = self._clock() + self._every_seconds
        now = self._reached = state.progress
        if self._every_steps:
            earlier = min(place.step, now.step) // self._every_steps
            self._steps_done = earlier if self._steps_done is None else min(self._steps_done, earlier)
        if transition.error is not None:
            self._save_at_last(transition, began)
        elif now.at == "finished":
            self.wait()
            self._save(transition, began, background=False)
        elif now.epoch > place.epoch and now.at != "after_fit":  # else the fit ends next, and saves
            by_count = self._every_epochs and now.epoch // self._every_epochs > place.epoch // self._every_epochs
            due = by_count or self._files.is_best(now, state.history)
            if on_first(lambda: bool(due)) if self._saves_together(state) else (run.first_rank and due):
                self.wait()
                self._save(transition, began, background=self._background)
        elif (
            # A short window is written after the batches. One that makes no step is no place to save at: a rank is told
            # of it only if something else came up there.
            (now.step > place.step or (transition.event == "after_batch" and now.phase != "train"))
            and self._is_due(now.phase, now.step)
            and (self._failure is None or self._saves_together(state))
        ):
            wanted = not self._is_writing and self._failure is None
            self._save(transition, began, background=self._background, wanted=wanted)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the file that is being written, at most so many seconds; returns whether it is done."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
            self._thread = None
        return True

    # -- saving ---------------------------------------------------------------------------------------------------

    def _save(
        self,
        transition: Transition,
        began: float,
        *,
        background: bool,
        daemon_until: float | None = None,
        wanted: bool = True,
    ) -> None:
        """Save a state; of several processes the first does, with the shares of all, if it is `wanted` there."""
        run, whole, together = transition.run, transition.state, self._saves_together(transition.state)
        known = self._saved is not None and self._saved[0]() is whole.tensors and self._saved[1] == _identity(whole)
        if together:
            if not on_first(lambda: wanted and not known):
                return
            self.wait()
        elif known:
            return
        state = run.whole(whole, wanted=wanted or together)
        if state is None:
            return
        self._due_at = self._clock() + self._every_seconds
        if self._every_steps:
            self._steps_done = state.progress.step // self._every_steps
        self._saved = weakref.ref(whole.tensors), _identity(state)
        if not (run.first_rank or together):
            return
        config = {"learner": run.learner, **run.config, "device": run.device}
        if together and self._sharded and self._group is None:
            self._group = own_group()
        save = partial(self._files.save, run=config, until=daemon_until, group=self._group)
        if together and not self._sharded:
            content = self._gathered(state, run)
            if content is None or not run.first_rank:
                return
            kept = evolved(state, tensors=_nothing_of(state.tensors))
            self._begin(run, began, partial(save, kept, lambda: content), background=background or bool(daemon_until))
            return
        if not background and daemon_until is None:
            read = partial(
                state.tensors.read,
                lambda snapshot: save(state, partial(flatten_state, state, flattener_for(state, snapshot))),
            )
            self._begin(run, began, read, background=False)
            return
        # The thread gets the copy only: holding the state would make the training copy its tensors again.
        snapshot = state.tensors.snapshot()
        flattener = flattener_for(state, snapshot)
        kept = evolved(state, tensors=Tensors(state.tensors.spec, state.tensors.template, None, snapshot))
        self._begin(run, began, partial(save, kept, partial(flatten_state, kept, flattener)), background=True)

    def _gathered(self, state: TrainState, run: RunInfo) -> Flattened | None:
        """Return a state with the tensors whole, on rank 0; None where a rank cannot give them, as the log is told."""

        def flattened(snapshot: Snapshot) -> Flattened:
            return gathered(on_each(partial(flatten_state, state, flattener_for(state, snapshot))))

        try:
            return state.tensors.read(flattened)
        except CheckpointError as error:
            self._saved = None
            self._report_failure(error, run)
            return None

    def _begin(self, run: RunInfo, began: float, save: Callable[[], Saved], *, background: bool) -> None:
        """Save, and tell of it, here or in a thread."""
        if not background:
            self._save_and_report(run, began, save)
            return
        waited = time.perf_counter() - began
        write = partial(self._save_and_report, run, began, save, waited=waited)
        self._thread = Thread(target=write, name="nntrain-checkpoint", daemon=True)
        self._thread.start()

    def _saves_together(self, state: TrainState) -> bool:
        """Return whether it takes all ranks to save a state."""
        return self._shared and (self._sharded or state.tensors.sharded)

    def _save_and_report(
        self, run: RunInfo, began: float, save: Callable[[], Saved], *, waited: float | None = None
    ) -> None:
        """Save, and tell the log of the file or of the failure."""
        try:
            if self._files.make_folder():
                text = f"the folder {self.folder} was gone, with what was in it; it is made again"
                run.tell(WarningEvent(code="checkpoint_folder_gone", text=text))
            saved = save()
        except Exception as error:  # noqa: BLE001 - a thread has no caller to raise to
            self._saved = None
            self._report_failure(error, run)
            return
        if not run.first_rank:
            return
        run.tell(
            CheckpointSaved(
                path=str(saved.path),
                bytes=saved.bytes,
                seconds=saved.seconds,
                waited_seconds=time.perf_counter() - began if waited is None else waited,
                digest=saved.digest,
            )
        )

    def _report_failure(self, error: Exception, run: RunInfo) -> None:
        """Tell the log of a failure, and keep it: the sink's next call raises it."""
        if not isinstance(error, CheckpointError):
            told = CheckpointError(str(self.folder), "unwritable", f"{type(error).__name__}: {error}".removesuffix("."))
            told.__cause__ = error
            error = told
        self._failure = error
        run.tell(WarningEvent(code="checkpoint_failed", text=f"{error} The files that were saved before it stay."))

    def _save_at_last(self, transition: Transition, began: float) -> None:
        """Save the state before an error, within `grace_seconds`.

        Amid a phase of several processes, and where all of them are needed to save, only what ends all at the same step
        can be saved, as a signal does.
        """
        until = time.monotonic() + self._grace
        needs_all = transition.state.sums.batches or self._saves_together(transition.state)
        if self._shared and isinstance(transition.error, Exception) and needs_all:
            return
        if transition.state.tensors.lost is None and self.wait(self._grace):
            self._save(transition, began, background=True, daemon_until=until)
        if not self.wait(max(0.0, until - time.monotonic())):
            text = f"the last state was not saved within {self._grace:g} seconds"
            self._report_failure(CheckpointError(str(self.folder), "unwritable", text), transition.run)


def _identity(state: TrainState) -> object:
    # A state that was rolled back to has the place and the tensors of one that was saved, but another key or rate.
    return state.progress, state.key, state.lr_scale


_SINKS: Final[weakref.WeakSet[Checkpoint]] = weakref.WeakSet()


@atexit.register
def _wait_for_all() -> None:
    """Wait for the files that are being written before the process ends."""
    for sink in list(_SINKS):
        sink.wait(sink._grace)


class _File(NamedTuple):
    path: Path
    saved_at: datetime
    score: float | None


def _name(number: int, step: int, suffix: str) -> str:
    return f"checkpoint-{number:06d}-step-{step:08d}{suffix}"


def _nothing_of(tensors: Tensors) -> Tensors:
    """Return a handle without a value, for a state whose tensors were taken out of it."""
    nothing = Tensors(tensors.spec, tensors.template, None, None)
    nothing.lose("they were gathered for a file")
    return nothing


_NAME: Final = re.compile(
    rf"checkpoint-(\d{{6,}})-step-(\d{{8,}})({re.escape(SUFFIX)}|{re.escape(SHARDED_SUFFIX)})", re.ASCII
)


def _number_of(path: Path) -> int | None:
    """Return the number in a name that the sink itself gives; None for any other name, which is the user's."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found and path.name == _name(int(found[1]), int(found[2]), found[3]) else None


class _Files:
    """The sink's own checkpoints in a folder: finds the best, and removes old ones."""

    def __init__(self, folder: Path, keep_last: int, monitor: str | None, mode: Mode, suffix: str) -> None:
        self.folder = folder
        self._suffix = suffix
        self._place = folder.absolute()  # the training may change the current folder
        self._keep_last = keep_last
        self.monitor = monitor
        self._mode: Mode = mode
        self.make_folder()
        remove_unfinished(self._place)
        self._files: list[_File] = []
        self._number = 0
        for path in files_of(self._place):
            number = _number_of(path)
            if number is None:
                continue
            self._number = max(self._number, number)
            with suppress(CheckpointError):  # damaged files stay, for the user to look at
                seen = inspect(path)
                self._files.append(_File(path, seen.saved_at, self._score(seen.progress, seen.history)))
        self._files.sort(key=lambda file: file.saved_at)

    def make_folder(self) -> bool:
        """Make the folder where it is missing; returns whether it was."""
        missing = not self._place.exists()
        try:
            self._place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if self._place.is_file():
                why = "it is a file; expected a folder"
            elif self._place.is_symlink():
                why = f"it is a link to {self._place.readlink()}, which is not there"
            else:
                why = f"there can be no such folder ({error.strerror or error})"
            raise CheckpointError(str(self.folder), "unwritable", why) from error
        return missing

    def _there(self) -> list[_File]:
        """Return the files that are still there, the oldest first."""
        return [file for file in self._files if file.path.exists()]

    @property
    def newest(self) -> Path | None:
        """The file that was saved last."""
        there = self._there()
        return self.folder / there[-1].path.name if there else None

    def newest_whole(self) -> Path | None:
        """Return the file that was saved last of those that are whole, which are read in full to know it."""
        for file in reversed(self._there()):
            with suppress(CheckpointError):
                verify(file.path)
                return file.path
        return None

    def is_best(self, place: Progress, history: tuple[EpochStats, ...]) -> bool:
        """Return whether the state at a place is better than all that were saved."""
        score = self._score(place, history)
        best = self._best()
        return score is not None and (best is None or best.score is None or score < best.score)

    def save(
        self,
        state: TrainState,
        flatten: Callable[[], Flattened],
        *,
        run: Mapping[str, object],
        until: float | None,
        group: Any,
    ) -> Saved:
        """Save a state, which `flatten` takes apart, under a new name; remove the files that need not be kept.

        Where the ranks of a `group` write folders together, each of them calls it, and rank 0 sees to the names.
        """
        content = flatten() if group is None else on_each(flatten, group)
        name, now = (
            self._next(state.progress.step)
            if group is None
            else on_first(lambda: self._next(state.progress.step), group)
        )
        path = self._place / name
        write = partial(save_sharded, group=group) if self._suffix == SHARDED_SUFFIX else save_flattened
        saved = write(content, path, run=run, saved_at=now, cancelled=partial(_is_over, until))
        if group is not None and not current_world().first:
            return saved
        score = self._score(state.progress, state.history)
        self._files = [*self._there(), _File(path, now, score)]
        self._remove_old()
        return saved._replace(path=self.folder / path.name)

    def _next(self, step: int) -> tuple[str, datetime]:
        """Return the name of the next file, and when it was saved: later than all before, whatever the clock says."""
        self._number += 1
        while (self._place / _name(self._number, step, self._suffix)).exists():
            self._number += 1  # somebody else has put a file there since
        last = self._files[-1].saved_at if self._files else _BEFORE_ALL
        return _name(self._number, step, self._suffix), max(datetime.now(UTC), last + _TICK)

    def _remove_old(self) -> None:
        kept = [*self._files[-self._keep_last :]]
        best = self._best()
        if best is not None and best not in kept:
            kept.insert(0, best)
        for file in self._files:
            if file not in kept:
                with suppress(OSError):
                    remove_checkpoint(file.path)
        self._files = kept

    def _best(self) -> _File | None:
        scored = [file for file in self._there() if file.score is not None]
        return min(scored, key=lambda file: file.score if file.score is not None else math.inf, default=None)

    def _score(self, place: Progress, history: tuple[EpochStats, ...]) -> float | None:
        """Return the value to compare a state by, smaller is better; None for a state that is not at an epoch's end."""
        value = None if self.monitor is None else value_at(place, history, self.monitor)
        return None if value is None else sign_of(self._mode) * value


def _is_over(until: float | None) -> bool:
    return until is not None and time.monotonic() > until


def _check_whole(name: str, given: object) -> None:
    if given is not None and not is_count(given, 1):
        raise ConfigError(f"{name} is {given!r}; expected a whole number from 1 up.")


def _check_time(name: str, given: object) -> None:
    if given is not None and (
        isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0 or math.isinf(given)
    ):
        raise ConfigError(f"{name} is {given!r}; expected a finite number greater than 0.")
