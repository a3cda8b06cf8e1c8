"""Finding the newest whole checkpoint of a folder, by the times in the records and not by file names, or the best."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

from nntrain.checkpoint.loading import inspect, load, open_checkpoint, verify
from nntrain.errors import CheckpointError, ConfigError, RankError
from nntrain.machine.learner import Learner
from nntrain.machine.machine import machine_of
from nntrain.ranks.ranks import Ranks
from nntrain.values.calls import meant
from nntrain.values.history import EpochStats
from nntrain.values.log_event import CheckpointLoaded, WarningEvent
from nntrain.values.progress import Progress
from nntrain.values.record import evolved
from nntrain.values.state import TrainState

Batch = TypeVar("Batch")
Read = TypeVar("Read")

Mode = Literal["min", "max"]
"""Whether the best value is the least or the greatest."""
SUFFIX: Final = ".safetensors"
SHARDED_SUFFIX: Final = ".sharded"
"""Of the folders of sharded checkpoints."""


class Skipped(NamedTuple):
    """A file that was skipped, newer than the chosen one or of unknown age, and the reason."""

    path: Path
    reason: str


class Latest(NamedTuple):
    """The newest whole checkpoint of a folder, None where it has none, and the files that were skipped."""

    path: Path | None
    skipped: tuple[Skipped, ...]


class Best(NamedTuple):
    """The best whole checkpoint of a folder and its value, None where it has none, and the files that were skipped."""

    path: Path | None
    value: float | None
    skipped: tuple[Skipped, ...]


class Resumed(NamedTuple):
    """A state to go on from, and the path of its checkpoint; both None where the folder has none."""

    state: TrainState | None
    path: Path | None
    skipped: tuple[Skipped, ...]


def latest(folder: str | os.PathLike[str]) -> Latest:
    """Return the newest checkpoint of a folder that is whole: all of it is read and checked.

    The newest is the one with the latest time in its record. A folder that does not exist has none.
    """
    found, skipped = newest_whole(Path(folder), verify)
    return Latest(None if found is None else found[0], skipped)


def resume(folder: str | os.PathLike[str], learner: Learner[Batch, Any]) -> Resumed:
    """Load the newest checkpoint of a folder that is whole, for `learner` to go on from.

    Skipped files are in the result, and the learner's sinks are told of them. Raises `MisfitError` where the newest
    whole one is of another model or optimizer: loading an older one would hide that. Several ranks, which all call it,
    load the file that the first finds; raises `RankError` where one of them cannot.
    """
    machine = machine_of(learner)
    if machine.ranks is None:
        found, skipped = newest_whole(Path(folder), lambda path: load(path, learner))
    elif machine.workspace.spec.sharded:
        found, skipped = _newest_together(machine.ranks, Path(folder), lambda path: load(path, learner))
    else:
        found, skipped = _newest_of_first(machine.ranks, Path(folder), lambda path: load(path, learner))
    events = [WarningEvent(code="checkpoint_skipped", text=f"{one.path}: {one.reason}") for one in skipped]
    if found is None:
        for event in events:
            machine.info(0).tell(event)
        return Resumed(None, None, skipped)
    path, state = found
    return Resumed(evolved(state, loaded=(*state.loaded, *events)), path, skipped)


def _newest_together(
    ranks: Ranks, folder: Path, read: Callable[[Path], TrainState]
) -> tuple[tuple[Path, TrainState] | None, tuple[Skipped, ...]]:
    """Return what `newest_whole` does, where it takes all ranks to read a file: they try the same one after the other.

    Which there are is what the first rank sees; one whose record a rank cannot read is skipped by all.
    """
    paths, skipped = ranks.from_rank(0, _by_age(folder) if ranks.world.first else ([], []))
    for path in paths:
        problems = ranks.gathered(_problem_of(path))
        problem = next((f"rank {rank}: {one}" for rank, one in enumerate(problems) if one), "")
        try:
            if not problem:
                return (path, read(path)), tuple(skipped)
        except CheckpointError as error:
            problem = error.reason
        skipped.append(Skipped(path, problem))
    return None, tuple(skipped)


def _problem_of(path: Path) -> str:
    """Return what is wrong with a checkpoint's record; empty where nothing is."""
    try:
        with open_checkpoint(path):
            return ""
    except CheckpointError as error:
        return error.reason


def _newest_of_first(
    ranks: Ranks, folder: Path, read: Callable[[Path], TrainState]
) -> tuple[tuple[Path, TrainState] | None, tuple[Skipped, ...]]:
    """Return what `newest_whole` does on the first rank; the others load the very file that it has found."""
    first = ranks.world.first
    found: tuple[Path, TrainState] | None = None
    skipped: tuple[Skipped, ...] = ()
    failed: Exception | None = None
    if first:
        try:
            found, skipped = newest_whole(folder, read)
        except Exception as error:  # noqa: BLE001 - the others are to know of it first
            failed = error
    said = "" if failed is None else f"{type(failed).__name__}: {failed}"
    path, skipped, said = ranks.from_rank(0, (found and found[0], skipped, said))
    if failed is not None:
        raise failed
    if said:
        raise RankError(f"Rank 0 could not load the newest checkpoint of {folder}: {said}", 0)
    if path is None:
        return None, skipped
    if not first:
        try:
            found = path, read(path)
        except Exception as error:  # noqa: BLE001 - same
            failed = error
    digests = ranks.gathered("" if found is None else _digest_of(found[1]))
    if failed is not None:
        raise failed
    differs = next((rank for rank, one in enumerate(digests) if one != digests[0]), None)
    if differs is not None:
        raise RankError(
            f"Rank {differs} {'has another' if digests[differs] else 'could not load the'} file {path}, from which "
            f"rank 0 is to go on. All ranks read checkpoints from one folder: give one that each of them sees.",
            differs,
        )
    return found, skipped


def _digest_of(state: TrainState) -> str:
    return next(one.digest for one in state.loaded if isinstance(one, CheckpointLoaded))


def best(folder: str | os.PathLike[str], monitor: str = "loss", mode: Mode = "min") -> Best:
    """Return the checkpoint of a folder whose state has the best value of those saved at the end of an epoch.

    `monitor` and `mode` are as for `Checkpoint(keep_best=..., mode=...)`. Of several with the best value it is the
    first. The file is whole: all of it is read and checked. Raises `ConfigError` for a value that no state has.
    """
    found, skipped = _best_whole(Path(folder), monitor, mode, verify)
    return Best(None, None, skipped) if found is None else Best(found[0], found[1], skipped)


def restore_best(
    folder: str | os.PathLike[str], learner: Learner[Batch, Any], monitor: str = "loss", mode: Mode = "min"
) -> TrainState:
    """Load the state that `best` finds.

    Raises `CheckpointError` where the folder has none, `ConfigError` for a value that no state has, and `MisfitError`
    where the best is of another model or optimizer.
    """
    found, skipped = _best_whole(Path(folder), monitor, mode, lambda path: load(path, learner))
    if found is None:
        why = "".join(f"; {one.path.name}: {one.reason}" for one in skipped)
        raise CheckpointError(
            str(folder), "unreadable", f"it has no whole checkpoint that was saved at the end of an epoch{why}"
        )
    return found[2]


def _best_whole(
    folder: Path, monitor: str, mode: Mode, read: Callable[[Path], Read]
) -> tuple[tuple[Path, float, Read] | None, tuple[Skipped, ...]]:
    """Return the best checkpoint of those that `read` accepts, its value, what `read` returns, and the skipped."""
    sign, names = sign_of(mode), set[str]()
    scored: list[tuple[float, datetime, Path]] = []
    skipped: list[Skipped] = []
    _check_folder(folder)
    for path in files_of(folder):
        try:
            seen = inspect(path)
        except CheckpointError as error:
            skipped.append(Skipped(path, error.reason))
            continue
        names.update(name for one in seen.history for name in _names_of(one))
        value = value_at(seen.progress, seen.history, monitor)
        if value is not None:
            scored.append((sign * value, seen.saved_at, path))
    if not scored and names and monitor not in names:
        raise ConfigError(f"monitor is {monitor!r}, which no state in {folder} has.{meant(monitor, names)}")
    for score, _, path in sorted(scored):
        try:
            return (path, sign * score, read(path)), tuple(skipped)
        except CheckpointError as error:
            skipped.append(Skipped(path, error.reason))
    return None, tuple(skipped)


def _names_of(stats: EpochStats) -> list[str]:
    """Return the values that a phase has, as monitors name them."""
    values = [*(("loss",) if stats.has_loss else ()), *stats.metrics]
    return [*(values if stats.phase == "eval" else ()), *(f"{stats.label}/{name}" for name in values)]


def value_at(place: Progress, history: Sequence[EpochStats], monitor: str) -> float | None:
    """Return the value of a state at the end of an epoch; None for any other state, and where there is no number."""
    if not history:
        return None
    # The end of an epoch's phase counts, and all after it until a batch is trained on.
    last = history[-1].epoch
    if place.epoch != last and (place.epoch, place.batch) != (last + 1, 0):
        return None
    found = [stats.value(monitor) for stats in history if stats.epoch == last]
    value = next((one for one in reversed(found) if one is not None), math.nan)
    return None if math.isnan(value) else value


def sign_of(mode: Mode) -> float:
    """Return what a value is multiplied with for the least to be the best. Raises `ConfigError` for no mode."""
    if mode not in {"min", "max"}:
        raise ConfigError(f"mode is {mode!r}; expected 'min' (a loss) or 'max' (an accuracy).")
    return 1.0 if mode == "min" else -1.0


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder that are named like checkpoints, sorted. A missing folder has none."""
    try:
        return sorted(
            path for path in folder.iterdir() if path.name.endswith((SUFFIX, SHARDED_SUFFIX)) and path.name[0] != "."
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            str(folder), "unreadable", f"the folder cannot be read ({error.strerror or error})"
        ) from error


def newest_whole(folder: Path, read: Callable[[Path], Read]) -> tuple[tuple[Path, Read] | None, tuple[Skipped, ...]]:
    """Return the checkpoint that was saved last of those that `read` accepts, with what it returns, and the skipped."""
    paths, skipped = _by_age(folder)
    for path in paths:
        try:
            return (path, read(path)), tuple(skipped)
        except CheckpointError as error:
            skipped.append(Skipped(path, error.reason))
    return None, tuple(skipped)


def _by_age(folder: Path) -> tuple[list[Path], list[Skipped]]:
    """Return the checkpoints of a folder whose records can be read, the newest first, and the others."""
    _check_folder(folder)
    aged: list[tuple[datetime, str, Path]] = []
    skipped: list[Skipped] = []
    for path in files_of(folder):
        try:
            with open_checkpoint(path) as content:
                aged.append((content.saved_at, path.name, path))
        except CheckpointError as error:
            skipped.append(Skipped(path, error.reason))
    return [path for _, _, path in sorted(aged, reverse=True)], skipped


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; expected the folder that the checkpoints are in.")
    if folder.is_symlink() and not folder.exists():  # a disk that is not mounted is no new training
        raise CheckpointError(str(folder), "unreadable", f"it is a link to {folder.readlink()}, which is not there")
