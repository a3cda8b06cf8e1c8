"""Finding the newest whole checkpoint in a folder, by the times in their records, not by names or file times."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from nntrain.checkpoint.loading import load, open_checkpoint, verify
from nntrain.errors import CheckpointError, ConfigError
from nntrain.machine.learner import Learner
from nntrain.machine.machine import machine_of
from nntrain.values.log_event import WarningEvent
from nntrain.values.record import evolved
from nntrain.values.state import TrainState

Batch = TypeVar("Batch")
Read = TypeVar("Read")

SUFFIX: Final = ".safetensors"


class Skipped(NamedTuple):
    """A file that was skipped, newer than the chosen one or of unknown age, and the reason."""

    path: Path
    reason: str


class Latest(NamedTuple):
    """The newest whole checkpoint of a folder, None where it has none, and the files that were skipped."""

    path: Path | None
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
    whole one is of another model or optimizer: loading an older one would hide that.
    """
    machine = machine_of(learner)
    found, skipped = newest_whole(Path(folder), lambda path: load(path, learner))
    events = [WarningEvent(code="checkpoint_skipped", text=f"{one.path}: {one.reason}") for one in skipped]
    if found is None:
        for event in events:
            machine.info(0).tell(event)
        return Resumed(None, None, skipped)
    path, state = found
    return Resumed(evolved(state, loaded=(*state.loaded, *events)), path, skipped)


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder that are named like checkpoints, sorted. A missing folder has none."""
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX) and path.name[0] != ".")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            str(folder), "unreadable", f"the folder cannot be read ({error.strerror or error})"
        ) from error


def newest_whole(folder: Path, read: Callable[[Path], Read]) -> tuple[tuple[Path, Read] | None, tuple[Skipped, ...]]:
    """Return the checkpoint that was saved last of those that `read` accepts, with what it returns, and the skipped."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; expected the folder that the checkpoints are in.")
    if folder.is_symlink() and not folder.exists():  # a disk that is not mounted is no new training
        raise CheckpointError(str(folder), "unreadable", f"it is a link to {folder.readlink()}, which is not there")
    aged: list[tuple[datetime, str, Path]] = []
    skipped: list[Skipped] = []
    for path in files_of(folder):
        try:
            with open_checkpoint(path) as content:
                aged.append((content.saved_at, path.name, path))
        except CheckpointError as error:
            skipped.append(Skipped(path, error.reason))
    for _, _, path in sorted(aged, reverse=True):
        try:
            return (path, read(path)), tuple(skipped)
        except CheckpointError as error:
            skipped.append(Skipped(path, error.reason))
    return None, tuple(skipped)
