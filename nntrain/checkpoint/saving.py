"""Saving: all of a checkpoint under its name, or nothing."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from nntrain.checkpoint.container import write
from nntrain.checkpoint.content import Flattened, flattened, record_text
from nntrain.errors import CheckpointError, ConfigError
from nntrain.values.flattening import Flattener
from nntrain.values.state import TrainState
from nntrain.values.tensors import Snapshot

try:
    import fcntl
except ImportError:  # Windows has none; a file that is open there cannot be removed in any case
    fcntl = None  # type: ignore[assignment] # the module is asked for before it is used

UNFINISHED: Final = ".nntrain-unfinished"
"""How the name of a checkpoint ends while it is written."""


class Saved(NamedTuple):
    """A checkpoint that was saved: where, its size in bytes, its digest, and how long it took in seconds."""

    path: Path
    bytes: int
    digest: str
    seconds: float


def save(state: TrainState, path: str | os.PathLike[str]) -> Saved:
    """Save a state as a safetensors file at `path`; what was there is replaced.

    It is written beside it, brought to the disk (`fsync`) and then renamed, so that at any moment, and whatever is
    killed or fails, `path` is the old file or the new one, whole. Tensors are not copied for it. Raises
    `CheckpointError` where it cannot be written, and where the state holds what no checkpoint can.
    """
    if not isinstance(state, TrainState):
        raise ConfigError(f"save takes a TrainState, like outcome.state; got {type(state).__name__}.")
    target = Path(path)

    def with_tensors(snapshot: Snapshot) -> Saved:
        flattener = Flattener()
        flattener.know(state.tensors, snapshot)
        return save_flattened(flattened(state, flattener), target)

    return state.tensors.read(with_tensors)


def save_flattened(
    content: Flattened,
    path: Path,
    *,
    run: Mapping[str, object] | None = None,
    saved_at: datetime | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Saved:
    """Save a state that was taken apart. `run` is what is to be known of the run that it is of."""
    began = time.perf_counter()
    text = record_text(saved_at or datetime.now(UTC), run, content.tree)
    try:
        with _replacing(path) as file:
            size, digest = write(file, content.tensors, text, cancelled=cancelled)
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        hint = "" if path.parent.is_dir() else f" There is no folder {path.parent}: make it first"
        raise CheckpointError(
            str(path), "unwritable", f"it cannot be written ({error}).{hint}".removesuffix(".")
        ) from error
    return Saved(path, size, digest, time.perf_counter() - began)


_BEING_WRITTEN: Final[set[str]] = set()
"""What this process is writing: no lock tells it from what another has left."""


@contextmanager
def _replacing(path: Path) -> Iterator[int]:
    """Open a file beside `path`, which takes its place at the end of the block, or is removed if that fails."""
    unfinished = path.parent / f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}"
    _BEING_WRITTEN.add(unfinished.name)
    try:
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if fcntl is not None:
                # Held while this process lives, and not by those that it forks, like a loader's workers: whoever can
                # have it knows that nobody writes any more.
                with suppress(OSError):
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            unfinished.replace(path)
        finally:
            os.close(file)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    finally:
        _BEING_WRITTEN.discard(unfinished.name)


def _sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk, where folders can be opened."""
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of the checkpoints that they were writing in a folder."""
    for left in folder.glob(f".*{UNFINISHED}"):
        if left.name in _BEING_WRITTEN:
            continue
        with suppress(OSError):
            file = os.open(left, os.O_RDWR)
            try:
                if fcntl is not None:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(file)
