"""The sink that saves: every so many steps, epochs or minutes, the best, and the last before anything ends."""

from __future__ import annotations

import atexit
import math
import os
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Final, Literal, NamedTuple

from nntrain.checkpoint.content import flattened
from nntrain.checkpoint.finding import SUFFIX
from nntrain.checkpoint.loading import inspect
from nntrain.checkpoint.saving import Saved, remove_unfinished, save_flattened
from nntrain.errors import CheckpointError, ConfigError
from nntrain.sinks.interest import Interest
from nntrain.sinks.transition import RunInfo, Transition
from nntrain.values.flattening import Flattener
from nntrain.values.history import EpochStats
from nntrain.values.log_event import CheckpointSaved, WarningEvent
from nntrain.values.progress import Phase, Progress
from nntrain.values.record import evolved
from nntrain.values.state import TrainState
from nntrain.values.tensors import Snapshot, Tensors

Mode = Literal["min", "max"]

_BEFORE_ALL: Final = datetime.min.replace(tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


class Checkpoint:
    """Save states into a folder while a learner trains. A sink: it changes no bit of the training.

    The last state of a fit is saved whenever the fit ends: completed or cancelled, by an error, Ctrl-C or SIGTERM. Each
    file is whole and on the disk before older ones are removed; `nntrain.checkpoint.resume` finds the newest. What is
    kept, and what is the best, is decided over all files of the folder: give each training its own.

    Args:
        folder: where to; made where it is missing.
        every_steps: save after so many steps of the optimizer.
        every_epochs: save at the end of so many epochs.
        every_minutes: save at the end of a batch, when so many minutes are over.
        keep_last: how many of the newest to keep; older ones are removed.
        keep_best: what to keep the best by beside these, "loss" or a metric of the eval phase; it is saved when it
            comes up. None keeps none.
        mode: whether the best is the least ("min") or the greatest ("max").
        background: write in a thread, while the training goes on. It waits for a copy of the tensors; where the one
            before is still being written, `every_steps` and `every_minutes` wait for that without it, and the others
            with it.
        grace_seconds: how long a last save may take before an error or a signal ends the training. It is given up then.
        strict: whether a save that fails ends the training. Otherwise it goes on, the older files stay, and the log and
            the outcome's `sink_failures` say so.

    Raises `ConfigError` for what cannot be meant, and `CheckpointError` at once where there can be no such folder.
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
        grace_seconds: float = 30.0,
        strict: bool = False,
    ) -> None:
        _check_whole("every_steps", every_steps)
        _check_whole("every_epochs", every_epochs)
        _check_whole("keep_last", keep_last)
        _check_time("every_minutes", every_minutes)
        _check_time("grace_seconds", grace_seconds)
        if mode not in {"min", "max"}:
            raise ConfigError(f"mode is {mode!r}; expected 'min' (a loss) or 'max' (an accuracy).")
        if not (keep_best is None or (isinstance(keep_best, str) and keep_best)):
            raise ConfigError(f"keep_best is {keep_best!r}; expected 'loss', a metric's name, or None.")
        self._strict = strict
        self._every_steps = every_steps or 0
        self._every_epochs = every_epochs or 0
        self._every_seconds = math.inf if every_minutes is None else 60.0 * every_minutes
        self._background = background
        self._grace = grace_seconds
        self._files = _Files(Path(folder), keep_last, keep_best, mode)
        self._due_at = time.monotonic() + self._every_seconds
        self._steps_done: int | None = None
        """How often the steps came up before the last state that was shown."""
        self._writing: _Writing | None = None
        self._saved: tuple[weakref.ref[Tensors], object] | None = None
        """What the last save was of: its tensors, and what else tells it from others of the same."""
        self._failure: CheckpointError | None = None
        _SINKS.add(self)

    @property
    def interest(self) -> Interest:
        """What it wants to be told: batches after which to save."""
        return Interest(every_batch=False, wants=self.wants, strict=self._strict, tells=True, last_words=True)

    @property
    def folder(self) -> Path:
        """The folder that it saves into."""
        return self._files.folder

    @property
    def newest(self) -> Path | None:
        """The file that was saved last, by this sink or before it; None where there is none yet."""
        return self._files.newest

    def wants(self, phase: Phase, step: int, /) -> bool:
        """Tell whether a batch is to be shown: its step is one to be saved at, or the minutes are over."""
        if self._failure is not None:
            return True
        if not (self._steps_due(phase, step) or time.monotonic() >= self._due_at):
            return False
        return self._writing is None or not self._writing.is_alive()

    def _steps_due(self, phase: Phase, step: int) -> bool:
        if not self._every_steps or phase != "train" or self._steps_done is None:
            return False
        return step // self._every_steps > self._steps_done

    def __call__(self, transition: Transition, /) -> None:
        """Save the state after a transition, where that is due. Raises `CheckpointError` where a save has failed."""
        began = time.perf_counter()
        place, state = transition.progress, transition.state
        now = state.progress
        if self._every_steps:
            earlier = min(place.step, now.step) // self._every_steps
            self._steps_done = earlier if self._steps_done is None else min(self._steps_done, earlier)
        if transition.error is not None:
            self._save_at_last(transition, began)
        elif now.at == "finished":
            self.wait()
            self._save(transition, began, background=False)
        elif now.epoch > place.epoch and now.at != "after_fit":  # there the end of the fit is next
            by_count = self._every_epochs and now.epoch // self._every_epochs > place.epoch // self._every_epochs
            if self._files.lacks(state.history):
                text = f"keep_best is {self._files.monitor!r}; there are {', '.join(_values(state.history[-1]))}"
                self._fail(CheckpointError(str(self.folder), "unwritable", text), transition.run)
            if by_count or self._files.is_best(now, state.history):
                self.wait()
                self._save(transition, began, background=self._background)
        elif transition.event == "after_batch" and self.wants(now.phase, now.step) and self._failure is None:
            self._save(transition, began, background=self._background)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until what is being written is, at most so many seconds. Gives whether it is."""
        if self._writing is not None:
            self._writing.join(seconds)
            if self._writing.is_alive():
                return False
            self._writing = None
        return True

    # -- saving ---------------------------------------------------------------------------------------------------

    def _save(
        self, transition: Transition, began: float, *, background: bool, daemon_until: float | None = None
    ) -> None:
        state = transition.state
        if self._is_saved(state):
            return
        self._due_at = time.monotonic() + self._every_seconds
        if self._every_steps:
            self._steps_done = state.progress.step // self._every_steps
        self._saved = weakref.ref(state.tensors), _mark(state)
        save = partial(self._files.save, run=_run_of(transition.run), until=daemon_until)
        if not background and daemon_until is None:
            self._told(transition.run, began, lambda: state.tensors.read(partial(_known, state, save)))
            return
        # Only the copy is taken along: the state itself would have the training copy its tensors once more.
        snapshot = state.tensors.snapshot()
        flattener = Flattener()
        flattener.know(state.tensors, snapshot)
        kept = evolved(state, tensors=Tensors(state.tensors.spec, state.tensors.template, None, snapshot))
        waited = time.perf_counter() - began
        self._writing = _Writing(
            partial(self._told, transition.run, began, partial(save, kept, flattener), waited=waited)
        )
        self._writing.start()

    def _is_saved(self, state: TrainState) -> bool:
        return self._saved is not None and self._saved[0]() is state.tensors and self._saved[1] == _mark(state)

    def _told(self, run: RunInfo, began: float, save: Callable[[], Saved], *, waited: float | None = None) -> None:
        """Save, and tell what came of it."""
        try:
            saved = save()
        except Exception as error:  # noqa: BLE001 - in a thread nobody else would hear of it
            self._saved = None
            self._fail(error, run)
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

    def _fail(self, error: Exception, run: RunInfo) -> None:
        """Tell of a failure, and raise it when the sink is called next."""
        if not isinstance(error, CheckpointError):
            told = CheckpointError(str(self.folder), "unwritable", f"{type(error).__name__}: {error}".removesuffix("."))
            told.__cause__ = error
            error = told
        self._failure = error
        run.tell(WarningEvent(code="checkpoint_failed", text=f"{error} The files that were saved before it stay."))

    def _save_at_last(self, transition: Transition, began: float) -> None:
        """Save what is left before an error leaves, within the time of grace."""
        until = time.monotonic() + self._grace
        if transition.state.tensors.lost is None and self.wait(self._grace):
            self._save(transition, began, background=True, daemon_until=until)
        if not self.wait(max(0.0, until - time.monotonic())):
            text = f"the last state was not saved within {self._grace:g} seconds"
            self._fail(CheckpointError(str(self.folder), "unwritable", text), transition.run)


def _mark(state: TrainState) -> object:
    # A state that was gone back to has the place and the tensors of one that was saved, and goes on otherwise.
    return state.progress, state.key, state.lr_scale


class _Writing(Thread):
    """A save that goes on beside the training. It does not hold up the end of the process: that is waited for apart."""

    def __init__(self, save: Callable[[], None]) -> None:
        super().__init__(target=save, name="nntrain-checkpoint", daemon=True)


def _known(state: TrainState, save: Callable[[TrainState, Flattener], Saved], snapshot: Snapshot) -> Saved:
    flattener = Flattener()
    flattener.know(state.tensors, snapshot)
    return save(state, flattener)


_SINKS: Final[weakref.WeakSet[Checkpoint]] = weakref.WeakSet()


@atexit.register
def _wait_for_all() -> None:
    """Let what is being written be written before the process ends."""
    for sink in list(_SINKS):
        sink.wait(sink._grace)


class _File(NamedTuple):
    path: Path
    number: int
    saved_at: datetime
    score: float | None


class _Files:
    """The checkpoints of a folder: which there are, which is the best, which to remove."""

    def __init__(self, folder: Path, keep_last: int, monitor: str | None, mode: Mode) -> None:
        self.folder = folder
        self._keep_last = keep_last
        self.monitor = monitor
        self._sign = 1.0 if mode == "min" else -1.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                str(folder), "unwritable", f"there can be no such folder ({error.strerror or error})"
            ) from error
        remove_unfinished(folder)
        self._files: list[_File] = []
        self._number = 0
        for path in sorted(folder.glob(f"checkpoint-*{SUFFIX}")):
            number = path.name.split("-")[1].removesuffix(SUFFIX)
            self._number = max(self._number, int(number) if number.isdecimal() else 0)
            with suppress(CheckpointError):  # what is damaged is left for whoever wants to look at it
                seen = inspect(path)
                self._files.append(_File(path, self._number, seen.saved_at, self._score(seen.progress, seen.history)))
        self._files.sort(key=lambda file: file.saved_at)

    @property
    def newest(self) -> Path | None:
        """The file that was saved last."""
        return self._files[-1].path if self._files else None

    def lacks(self, history: tuple[EpochStats, ...]) -> bool:
        """Tell whether there are values, and not the one that states are to be compared by."""
        return bool(history) and self.monitor is not None and self.monitor not in _values(history[-1])

    def is_best(self, place: Progress, history: tuple[EpochStats, ...]) -> bool:
        """Tell whether the state at a place is better than all that were saved."""
        score = self._score(place, history)
        best = self._best()
        return score is not None and (best is None or best.score is None or score < best.score)

    def save(self, state: TrainState, flattener: Flattener, *, run: Mapping[str, object], until: float | None) -> Saved:
        """Save a state under a new name, and remove what is not to be kept beside it."""
        self._number += 1
        name = f"checkpoint-{self._number:06d}-step-{state.progress.step:08d}{SUFFIX}"
        last = self._files[-1].saved_at if self._files else _BEFORE_ALL
        now = max(datetime.now(UTC), last + _TICK)  # the clock may have been set back
        saved = save_flattened(
            flattened(state, flattener),
            self.folder / name,
            run=run,
            saved_at=now,
            cancelled=lambda: until is not None and time.monotonic() > until,
        )
        score = self._score(state.progress, state.history)
        self._files.append(_File(saved.path, self._number, now, score))
        self._remove_old()
        return saved

    def _remove_old(self) -> None:
        kept = [*self._files[-self._keep_last :]]
        best = self._best()
        if best is not None and best not in kept:
            kept.insert(0, best)
        for file in self._files:
            if file not in kept:
                with suppress(OSError):
                    file.path.unlink()
        self._files = kept

    def _best(self) -> _File | None:
        scored = [file for file in self._files if file.score is not None]
        return min(scored, key=lambda file: file.score if file.score is not None else math.inf, default=None)

    def _score(self, place: Progress, history: tuple[EpochStats, ...]) -> float | None:
        """Give the value to compare a state by, the smaller the better: None where it is not one of an epoch's end."""
        if self.monitor is None or not history or history[-1].phase != "eval":
            return None
        last = history[-1]
        # Of the last phase's end, and of what follows it until a batch is trained on.
        if (place.epoch, place.phase) != (last.epoch, "eval") and (place.epoch, place.batch) != (last.epoch + 1, 0):
            return None
        value = self._sign * _values(last).get(self.monitor, math.nan)
        return None if math.isnan(value) else value


def _values(stats: EpochStats) -> Mapping[str, float]:
    return {"loss": stats.loss, **stats.metrics}


def _run_of(run: RunInfo) -> Mapping[str, Any]:
    """Give what is to be known of the run that a state is of."""
    return {"learner": run.learner, **run.config, "device": run.device}


def _check_whole(name: str, given: object) -> None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        raise ConfigError(f"{name} is {given!r}; expected a whole number from 1 up.")


def _check_time(name: str, given: object) -> None:
    if given is not None and (
        isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0 or math.isinf(given)
    ):
        raise ConfigError(f"{name} is {given!r}; expected a finite number greater than 0.")
