"""Saving: the whole checkpoint under its name, or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import Tensor

from nntrain.checkpoint.container import Stored, write
from nntrain.checkpoint.content import Flattened, flatten_state, flattener_for, record_text
from nntrain.checkpoint.manifest import (
    MANIFEST,
    File,
    Part,
    described,
    is_sharded_checkpoint,
    manifest_text,
    save_alone,
    sharded_record,
)
from nntrain.checkpoint.together import gathered, on_each, on_first
from nntrain.errors import CheckpointError, ConfigError, StateError
from nntrain.ranks.world import current_world
from nntrain.values.shards import is_sharded
from nntrain.values.state import TrainState
from nntrain.values.tensors import Snapshot

try:
    import fcntl
except ImportError:  # Windows has none; there an open file cannot be removed anyway
    fcntl = None  # type: ignore[assignment] # it is compared with None before it is used

UNFINISHED: Final = ".nntrain-unfinished"
"""The suffix of a checkpoint's name while it is written."""


RecordText = Callable[[Mapping[str, Stored]], str]


class Saved(NamedTuple):
    """A checkpoint that was saved: its path, its size in bytes, its digest, and the seconds that it took."""

    path: Path
    bytes: int
    digest: str
    seconds: float


def save(state: TrainState, path: str | os.PathLike[str], *, sharded: bool = False) -> Saved:
    """Save a state as a safetensors file at `path`; a file that was there is replaced.

    It is written to a temporary file, synced to the disk (`fsync`) and then renamed: whatever is killed or fails,
    `path` is always the whole old file or the whole new one. Tensors are not copied for it. Of a state that is sharded
    over ranks all of them call it: rank 0 gathers the tensors in its memory, and writes.

    With `sharded` it is a folder, which all ranks call it for: each writes a file of its own parts, and rank 0 a
    manifest, last. It is renamed when all is on the disk, in the place of a folder that was there. `load` takes
    either, on any number of processes. Raises `CheckpointError`, on all ranks, where it cannot be written, or the state
    has what no checkpoint can hold.
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

    def saved(snapshot: Snapshot) -> Saved:
        flatten = partial(flatten_state, state, flattener_for(state, snapshot))
        if not (sharded or state.tensors.sharded):
            return save_flattened(flatten(), target)
        content = on_each(flatten)
        if sharded:
            return save_sharded(content, target)
        content = gathered(content)
        return on_first(lambda: save_flattened(content, target))

    return state.tensors.read(saved)


def save_flattened(
    content: Flattened,
    path: Path,
    *,
    run: Mapping[str, object] | None = None,
    saved_at: datetime | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Saved:
    """Save a flattened state. `run` is the configuration of its run."""
    return write_file(content.tensors, path, record_text(saved_at or datetime.now(UTC), run, content.tree), cancelled)


def write_file(
    tensors: Mapping[str, Tensor], path: Path, text: RecordText, cancelled: Callable[[], bool] = lambda: False
) -> Saved:
    """Write a checkpoint in one file. `text` makes its record of the tensors' descriptions."""
    began = time.perf_counter()
    with _said_of(path), _replacing(path) as file:
        size, digest = write(file, tensors, text, cancelled=cancelled)
    return Saved(path, size, digest, time.perf_counter() - began)


def save_sharded(
    content: Flattened,
    path: Path,
    *,
    run: Mapping[str, object] | None = None,
    saved_at: datetime | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    group: Any = None,
) -> Saved:
    """Save a flattened state as a folder (collective over `group`). What rank 0 says of tree and whole tensors counts.

    Raises `CheckpointError` on all ranks where one fails; then nothing has changed at `path`.
    """
    text = record_text(saved_at or datetime.now(UTC), run, content.tree)
    return write_folder(content.tensors, path, text, cancelled, group=group)


def write_folder(
    tensors: Mapping[str, Tensor],
    path: Path,
    text: RecordText,
    cancelled: Callable[[], bool] = lambda: False,
    *,
    group: Any = None,
) -> Saved:
    """Write a checkpoint as a folder, as `save_sharded` does. `text` is that of `write_file`."""
    began = time.perf_counter()
    world = current_world()
    written: list[tuple[int, str]] = []
    unfinished = Path(on_first(lambda: str(_begun(path)), group))

    def finish(files: Mapping[str, File], parts: Mapping[str, Sequence[Part]]) -> None:
        stored = {name: described(name, one, parts[name]) for name, one in tensors.items()}
        manifest, digest = manifest_text(sharded_record(text(stored), files, parts))
        with Path(unfinished, MANIFEST).open("wb") as file:
            file.write(manifest)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(unfinished)
        _put_in_place(unfinished, path)
        written.append((len(manifest) + sum(one.bytes for one in files.values()), digest))

    mine = {name: one for name, one in tensors.items() if world.first or is_sharded(one)}
    try:
        with _said_of(path):
            if world.single:
                save_alone(mine, unfinished, finish, cancelled)
            else:
                from nntrain.checkpoint.planned import save_parts

                save_parts(mine, unfinished, finish, target=path, group=group, cancelled=cancelled)
    finally:
        if world.first:
            _release(unfinished)
    size, digest = on_first(lambda: written[0], group)
    return Saved(path, size, digest, time.perf_counter() - began)


def _begun(path: Path) -> Path:
    """Make the folder that is to be renamed, and lock it. Raises `CheckpointError` where there can be none."""
    unfinished = _unfinished_name(path)
    if path.exists() and not is_sharded_checkpoint(path):
        kind = "a folder that is no sharded checkpoint" if path.is_dir() else "a file"
        raise CheckpointError(str(path), "unwritable", f"it is {kind}; move it away, or save under another name")
    _BEING_WRITTEN.add(unfinished.name)
    with _said_of(path):
        try:
            unfinished.mkdir()
            _locks[unfinished.name] = _locked(unfinished / _LOCK)
        except OSError:
            _release(unfinished)
            raise
    return unfinished


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Raise `CheckpointError` for what the system refuses while a checkpoint is written in a block."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        hint = "" if path.parent.is_dir() else f" There is no folder {path.parent}: make it first"
        raise CheckpointError(
            str(path), "unwritable", f"it cannot be written ({error}).{hint}".removesuffix(".")
        ) from error


def _unfinished_name(path: Path) -> Path:
    """Return a new name beside a checkpoint's: that of what is being written, or was put aside, and is none."""
    return path.parent / f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}"


def _take_lock(file: int) -> None:
    """Take the lock of an open file. Raises `OSError` where another process has it.

    It is held until this process ends, and not by processes that it forks, like a loader's workers: who gets this lock
    knows that nobody writes any more.
    """
    if fcntl is not None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _locked(path: Path) -> int:
    """Return a new file that this process holds the lock of."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    with suppress(OSError):
        _take_lock(file)
    return file


def _put_in_place(unfinished: Path, path: Path) -> None:
    """Give a folder that is whole its name; one that was there gets the unfinished one's, and is removed by `_release`.

    Where the system can exchange two names it is one step, else two with none of them there in between.
    """
    if not path.exists():
        unfinished.rename(path)
    elif not _exchanged(unfinished, path):
        aside = _unfinished_name(path)
        path.rename(aside)
        unfinished.rename(path)
        aside.rename(unfinished)
    with suppress(OSError):  # not before: until it has its name another process may take it for one that is left
        (path / _LOCK).unlink()
    _sync_folder(path.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two folders, and return whether this system can."""
    import ctypes

    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    here, both = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
    return exchange is not None and exchange(here, os.fsencode(one), here, os.fsencode(other), both) == 0


def _release(unfinished: Path) -> None:
    """Remove what is left under an unfinished name, and let its lock go."""
    file = _locks.pop(unfinished.name, None)
    if file is not None:
        os.close(file)
    shutil.rmtree(unfinished, ignore_errors=True)
    _BEING_WRITTEN.discard(unfinished.name)


_LOCK: Final = "writing"
"""The file in an unfinished folder that its writer has locked."""
_locks: Final[dict[str, int]] = {}
"""The locks that this process holds, by the folders' names."""
_BEING_WRITTEN: Final[set[str]] = set()
"""The names that this process is writing: its own locks do not protect them from itself."""


@contextmanager
def _replacing(path: Path) -> Iterator[int]:
    """Open a temporary file that replaces `path` at the end of the block, or is removed if the block fails."""
    unfinished = _unfinished_name(path)
    _BEING_WRITTEN.add(unfinished.name)
    try:
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with suppress(OSError):
                _take_lock(file)
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
    """Remove the unfinished checkpoints that killed processes left in a folder, unless somebody writes them still."""
    for left in folder.glob(f".*{UNFINISHED}"):
        if left.name in _BEING_WRITTEN:
            continue
        locked = left / _LOCK if left.is_dir() else left
        with suppress(OSError):
            if locked != left and not locked.exists():  # a folder that was whole, or put aside
                _remove(left)
                continue
            file = os.open(locked, os.O_RDWR)
            try:
                _take_lock(file)
                _remove(left)
            finally:
                os.close(file)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it, as far as that can be."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint: a folder gets an unfinished one's name first, so that a part of it is never taken for it."""
    if path.is_dir():
        aside = _unfinished_name(path)
        path.rename(aside)
        path = aside
    _remove(path)
