"""Saving: the whole checkpoint under its name, or nothing."""

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
from nntrain.checkpoint.content import Flattened, flatten_state, flattener_for, record_text
from nntrain.errors import CheckpointError, ConfigError, StateError
from nntrain.values.state import TrainState

try:
    import fcntl
except ImportError:  # Windows has none; there an open file cannot be removed anyway
    fcntl = None  # type: ignore[assignment] # it is compared with None before it is used

UNFINISHED: Final = ".nntrain-unfinished"
"""The suffix of a checkpoint's name while it is written."""


class Saved(NamedTuple):
    """A checkpoint that was saved: its path, its size in bytes, its digest, and the seconds that it took."""

    path: Path
    bytes: int
    digest: str
    seconds: float


def save(state: TrainState, path: str | os.PathLike[str]) -> Saved:
    """Save a state as a safetensors file at `path`; a file that was there is replaced.

    It is written to a temporary file, synced to the disk (`fsync`) and then renamed: whatever is killed or fails,
    `path` is always the whole old file or the whole new one. Tensors are not copied for it. Raises `CheckpointError`
    where it cannot be written, or the state has what no checkpoint can hold.
    """
    if not isinstance(state, TrainState):
        raise ConfigError(f"save takes a TrainState, like outcome.state; got {type(state).__name__}.")
    if state.sums.ranks > 1 and state.sums.batches and not state.sums.others:
        raise StateError(
            f"The state stands amid a phase that {state.sums.ranks} processes share, and each has but its own part of "
            f"the sums. Save between two phases, or let a sink do it, which all of them have: "
            f"sinks=[Checkpoint(folder, every_steps=...)]."
        )
    target = Path(path)
    return state.tensors.read(
        lambda snapshot: save_flattened(flatten_state(state, flattener_for(state, snapshot)), target)
    )


def save_flattened(
    content: Flattened,
    path: Path,
    *,
    run: Mapping[str, object] | None = None,
    saved_at: datetime | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Saved:
    """Save a flattened state. `run` is the configuration of its run."""
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
"""The names that this process is writing: its own locks do not protect them from itself."""


@contextmanager
def _replacing(path: Path) -> Iterator[int]:
    """Open a temporary file that replaces `path` at the end of the block, or is removed if the block fails."""
    unfinished = path.parent / f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}"
    _BEING_WRITTEN.add(unfinished.name)
    try:
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if fcntl is not None:
                # Held until this process ends, and not by processes that it forks, like a loader's workers: who gets
                # this lock knows that nobody writes the file any more.
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
    """Sync a folder's names to the disk, where folders can be opened."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished checkpoints that killed processes left in a folder."""
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
