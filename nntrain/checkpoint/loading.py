"""Reading: the whole state for a learner, or an error that says what does not fit; and what a checkpoint has."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, TypeVar

import torch
from pydantic import AwareDatetime
from torch import Tensor

from nntrain.checkpoint.container import FORMAT, Head, Stored, read_head, read_tensors
from nntrain.checkpoint.content import Flattened, migrate, state_of
from nntrain.checkpoint.manifest import FORMAT_SHARDED, Manifest, is_sharded_checkpoint, read_manifest
from nntrain.errors import CheckpointError, DataWarning, MisfitError, StateError, escape_untrusted
from nntrain.machine.learner import Learner
from nntrain.machine.machine import machine_of
from nntrain.ranks.console import warn_once
from nntrain.values.differences import Difference, difference
from nntrain.values.flattening import Tree, unflattened
from nntrain.values.history import EpochStats, History
from nntrain.values.key import Key
from nntrain.values.log_event import CheckpointLoaded, LogEvent, WarningEvent
from nntrain.values.progress import Progress
from nntrain.values.record import FrozenMapping, Record, evolved
from nntrain.values.shards import any_sharded, is_sharded, laid_out_as
from nntrain.values.state import TrainState
from nntrain.values.tensors import ModelSource, Spec

Batch = TypeVar("Batch")


class StoredTensor(Record, frozen=True):
    """A tensor of a checkpoint: its shape, torch's name of its dtype, its size in bytes, and its SHA-256 digest."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    digest: str


class Inspection(Record, frozen=True):
    """What a checkpoint says of itself, without the tensors' content.

    `digest` is the SHA-256 of its record, which includes each tensor's digest. `run` is the learner's configuration,
    as in the log's `run_started`, where a `Checkpoint` saved it; None where `save` did. `slots` are the fields of the
    subscribers' slots, shortened.
    """

    path: str
    format: str
    bytes: int
    digest: str
    saved_at: AwareDatetime
    versions: FrozenMapping[str]
    run: FrozenMapping[object] | None
    progress: Progress
    key: Key
    lr_scale: float
    history: History
    optimizer: str
    slots: FrozenMapping[str]
    tensors: FrozenMapping[StoredTensor]


class _OneFile:
    """A checkpoint in one open file, whose head was checked."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self.head: Head = read_head(file, path)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors, on the CPU, each checked."""
        return read_tensors(self._file, self._path, self.head)


class Content:
    """An open checkpoint whose record was checked."""

    def __init__(self, source: _OneFile | Manifest, path: str) -> None:
        self.source = source
        self.path = path
        self.head: Head = source.head
        if "state" not in self.head.record:
            raise CheckpointError(
                path, "foreign", "it is a part of a sharded checkpoint: take the folder that it is in"
            )
        with self.damage_reported():
            self.record: dict[str, Any] = migrate(self.head.record, self.head.version)
            self.tree: Tree = self.record["state"]
            ((_, parts),) = self.tree.items()
            self.parts: Mapping[str, Tree] = parts
            self.run: Mapping[str, Any] | None = self.record["run"]
            if not (self.run is None or isinstance(self.run, dict)):
                raise ValueError(f"of its run it says {str(self.run)[:80]}")
            self.saved_at: datetime = datetime.fromisoformat(self.record["saved_at"]).astimezone(UTC)

    @contextmanager
    def damage_reported(self) -> Iterator[None]:
        """Raise a `CheckpointError` for a damaged file where a record is not as it should be."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, MisfitError):
                raise
            raise CheckpointError(
                self.path, "damaged", f"its record is none of a state ({type(error).__name__}: {str(error)[:300]})"
            ) from error

    def plain(self, name: str) -> Any:
        """Return a part of the state that has no tensor."""
        with self.damage_reported():
            return unflattened(self.parts[name], {}, {})

    def shapes(self, name: str) -> Mapping[str, tuple[torch.Size, torch.dtype]]:
        """Return the shapes and dtypes, by name, of the tensors in a part of the state."""
        with self.damage_reported():
            ((_, named),) = self.parts[name].items()
            return {key: self._shape_and_dtype(one) for key, one in named.items()}

    def _shape_and_dtype(self, tree: Tree) -> tuple[torch.Size, torch.dtype]:
        if "sparse" not in tree:
            return self.head.tensors[tree["tensor"]].shape_and_dtype
        parts = tree["sparse"]
        _, dtype = self.head.tensors[parts["values"]["tensor"]].shape_and_dtype
        return torch.Size(parts["shape"]["tuple"]), dtype

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors, on the CPU, each checked."""
        return self.source.tensors()


@contextmanager
def open_checkpoint(path: str | os.PathLike[str]) -> Iterator[Content]:
    """Open a checkpoint for a block, and check its record. Raises `CheckpointError`."""
    name = os.fspath(path)
    if is_sharded_checkpoint(name):
        yield Content(read_manifest(name), name)
        return
    with _open_file(name) as file:
        try:
            yield Content(_OneFile(file, name), name)
        except OSError as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(name, "unreadable", f"it cannot be read ({error.strerror or error})") from error


def _open_file(name: str) -> BinaryIO:
    """Open a regular file. Refuses a pipe, which would block, and a device, which has no end."""
    try:
        number = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(name, "unreadable", f"it cannot be opened ({reason})") from error
    kind = os.fstat(number).st_mode
    if not stat.S_ISREG(kind):
        os.close(number)
        folder = "a folder without the manifest of a sharded checkpoint"
        what = folder if stat.S_ISDIR(kind) else "a pipe, a socket or a device"
        raise CheckpointError(name, "unreadable", f"it is {what}; expected a file")
    return os.fdopen(number, "rb")


def load(path: str | os.PathLike[str], learner: Learner[Batch, Any]) -> TrainState:
    """Load a state that `learner` goes on from, bit for bit, on its device.

    Every bit of the file is checked; that it fits the learner, before the tensors are read. Nothing is unpickled, and
    no code of the file runs. Raises `CheckpointError` for a file that is damaged or not a checkpoint, and `MisfitError`
    for another model or optimizer, with all that is missing, unexpected or of another shape or dtype.
    """
    machine = machine_of(learner)
    workspace = machine.workspace
    began = time.perf_counter()
    with open_checkpoint(path) as content:
        update = workspace.optimizer
        _check_fit(content, workspace.spec, update.kind, len(update.fresh.options), update.rules)
        trained_on = next(
            (one.device for name, one in content.head.tensors.items() if name.startswith("params/")), "cpu"
        )
        with nullcontext() if machine.ranks is None else machine.ranks.together("load a checkpoint"):
            tensors = _read_for(content, workspace.params, workspace.device, trained_on)
        misfits: list[str] = []
        empty = machine.metrics.init()
        state = _build_state(content, tensors, workspace.spec, workspace.template, misfits, empty=empty)
        if misfits:
            raise _misfit(content, misfits)
        state = machine.own_share(state)
        changed = changes(content.run or {}, learner, state)
        read_of = _data_of(state.progress)
        counted = changed.get(f"{read_of}_batches")
        if counted is not None and state.progress.at == "batch" and state.progress.batch:
            amid = f"it stands amid a phase of {counted[0]} batches; the learner's data have {counted[1]}"
            raise _misfit(content, [amid])
        try:
            machine.check_sums(state)
        except StateError as error:
            raise _misfit(content, [str(error)]) from None
        size, digest = content.head.bytes, content.head.digest
    seconds = time.perf_counter() - began
    loaded: list[LogEvent] = [CheckpointLoaded(path=os.fspath(path), bytes=size, seconds=seconds, digest=digest)]
    other_data = [name for name in (f"{read_of}_batch_size", f"{read_of}_samples") if name in changed]
    if other_data and state.progress.at == "batch" and state.progress.batch:
        said = " and ".join(f"{name} was {changed[name][0]}, and is {changed[name][1]}" for name in other_data)
        warn_once(
            f"{os.fspath(path)} was saved amid an epoch of other data: {said}. Some samples are taken twice in this "
            f"epoch, or not at all. Go on with the data that it was trained on, and change them between two epochs.",
            DataWarning,
            stacklevel=2,
        )
    if changed:
        said = "; ".join(f"{name} was {before}, and is {now}" for name, (before, now) in changed.items())
        loaded.append(WarningEvent(code="checkpoint_changed", text=f"since {os.fspath(path)} was saved: {said}"))
    return evolved(state, loaded=tuple(loaded))


def _read_for(
    content: Content, params: Mapping[str, Tensor], device: torch.device, trained_on: str
) -> dict[str, Tensor]:
    """Return a checkpoint's tensors, each where it belongs; what is of a sharded parameter's shape is sharded as that.

    Of a sharded checkpoint a rank reads what it needs (collective).
    """

    def placed(name: str, tensor: Tensor) -> Tensor:
        stays = _stays_on_cpu(name, tensor, content.head.tensors[name].device, trained_on)
        return tensor if stays else tensor.to(device)

    if isinstance(content.source, Manifest) and any_sharded(params.values()):
        from nntrain.checkpoint.planned import load_parts

        into: dict[str, Tensor] = {}
        for name, stored in content.head.tensors.items():
            shape, dtype = stored.shape_and_dtype
            like = _sharded_param(name, shape, params)
            if like is not None:
                into[name] = torch.empty_like(like, dtype=dtype, requires_grad=False)
            elif stored.strides is not None:
                into[name] = torch.empty_strided(shape, stored.strides, dtype=dtype)
            else:
                into[name] = torch.empty(shape, dtype=dtype)
        load_parts(content.source, into)
        return {name: one if is_sharded(one) else placed(name, one) for name, one in into.items()}
    return {
        name: laid_out_as(placed(name, tensor), _sharded_param(name, tensor.shape, params))
        for name, tensor in content.tensors()
    }


def _sharded_param(name: str, shape: torch.Size, params: Mapping[str, Tensor]) -> Tensor | None:
    """Return the sharded parameter that a tensor is of, by its name and its shape; None where there is none."""
    found = (params[part] for part in name.split("/") if part in params)
    return next((one for one in found if is_sharded(one) and one.shape == shape), None)


_COMPARED: Final = ("lr", "lr_schedule", "loss_fn", "metrics", "subscribers", "world_size")
"""The settings with which a run goes on differently, where they change: these, and the sizes of all its data."""


def _data_of(place: Progress) -> str:
    """Return what the settings call the data that a phase reads."""
    return "train" if place.phase == "train" else f"valid/{place.data}" if place.data else "valid"


def changes(
    run: Mapping[str, Any], learner: Learner[Batch, Any], state: TrainState
) -> dict[str, tuple[object, object]]:
    """Return the settings that changed since the checkpoint: (then, now for `learner`) by name.

    Empty where the checkpoint has none, as those that `save` made.
    """
    config = learner.machine.info(state.key.seed).config
    names = [name for name in _COMPARED if name in config]
    sizes = [name for name in config if name.startswith(("train_", "valid_", "valid/"))]
    names += sorted(sizes, key=lambda name: not name.endswith("_batches"))
    now: Mapping[str, object] = json.loads(json.dumps({name: config[name] for name in names}, default=str))
    return {name: (run[name], value) for name, value in now.items() if name in run and run[name] != value}


class _TrackedTensors(dict[str, Tensor]):
    """Tensors by name, and the names that were looked up."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return super().__getitem__(name)


def _build_state(
    content: Content,
    tensors: Mapping[str, Tensor],
    spec: Spec,
    template: ModelSource,
    misfits: list[str],
    *,
    empty: Mapping[str, object],
) -> TrainState:
    """Return the state of a checkpoint. Raises `CheckpointError` where the file has tensors that are no part of it."""
    asked = _TrackedTensors(tensors)
    with content.damage_reported():
        state = state_of(content.tree, asked, spec, template, misfits, empty=empty)
    foreign = [name for name in tensors if name not in asked.used]
    if foreign:
        raise CheckpointError(
            content.path, "damaged", f"it has tensors that are no part of its state: {', '.join(foreign)}"
        )
    return state


def _stays_on_cpu(name: str, tensor: Tensor, device: str, trained_on: str) -> bool:
    """Return whether a tensor stays on the CPU: a GPU training kept it there, or it counts an optimizer's steps.

    An optimizer that counts on the device moves its counts there itself.
    """
    if device != trained_on:
        return device == "cpu"
    return device == "cpu" and not tensor.ndim and not name.startswith(("params/", "buffers/", "sums/"))


def _check_fit(content: Content, spec: Spec, kind: str, groups: int, rules: tuple[str, ...]) -> None:
    theirs = Spec(content.shapes("params"), content.shapes("buffers"), spec.device)
    misfits = spec.misfits(theirs)
    optimizer = content.plain("kind")
    if optimizer != kind:
        misfits.append(f"the optimizer is {optimizer}, expected {kind}")
    with content.damage_reported():
        ((_, kept),) = content.parts["groups"].items()
        if optimizer == kind and len(kept) != groups:
            misfits.append(f"the optimizer has {len(kept)} parameter groups, expected {groups}")
        ((_, remembered),) = content.parts.get("rules", {"map": {}}).items()
        others = [name for name in remembered if name not in rules]
        if others:
            there = ", ".join(rules) or "none"
            misfits.append(
                f"it has what the update rules {', '.join(others)} remember, the learner's rules are {there}"
            )
    if misfits:
        raise _misfit(content, misfits)


def _misfit(content: Content, misfits: list[str]) -> MisfitError:
    return MisfitError(
        f"{content.path} does not fit the learner:\n  "
        + "\n  ".join(map(escape_untrusted, misfits))
        + "\nNothing was loaded. Load it with a learner of the model and the optimizer that it was saved with. The "
        "state may then go on in a learner of that model with another optimizer, which begins anew."
    )


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Return what a checkpoint says of itself; the tensors are not read. Raises `CheckpointError`."""
    with open_checkpoint(path) as content:
        return inspection_of(content)


def inspection_of(content: Content) -> Inspection:
    """Return what an open checkpoint says of itself."""
    head, record = content.head, content.record
    with content.damage_reported():
        ((_, slots),) = content.parts["slots"].items()
        return Inspection(
            path=content.path,
            format=f"{FORMAT_SHARDED if isinstance(content.source, Manifest) else FORMAT}/{head.version}",
            bytes=head.bytes,
            digest=head.digest,
            saved_at=content.saved_at,
            versions=FrozenMapping(record["versions"]),
            run=None if content.run is None else FrozenMapping(content.run),
            progress=Progress.model_validate(content.plain("progress")),
            key=Key.model_validate(content.plain("key")),
            lr_scale=content.plain("lr_scale"),
            history=History(map(EpochStats.model_validate, content.plain("history"))),
            optimizer=content.plain("kind"),
            slots=FrozenMapping({name: _summary(slot) for name, slot in slots.items()}),
            tensors=FrozenMapping({name: _stored_tensor(stored) for name, stored in head.tensors.items()}),
        )


def _summary(tree: Tree) -> str:
    """Return the fields of a slot as text."""
    if isinstance(tree, dict):
        ((tag, inner),) = tree.items()
        if tag == "state":
            return f"a state at step {inner['progress']['record']['step']}"
        if tag in {"map", "record", "totals", "sparse"}:
            return ", ".join(f"{name}={_summary(part)}" for name, part in inner.items())
        return _summary(inner) if isinstance(inner, list) else str(inner)
    if isinstance(tree, list):
        return "[" + ", ".join(map(_summary, tree)) + "]"
    return str(tree)


def _stored_tensor(stored: Stored) -> StoredTensor:
    shape, dtype = stored.shape_and_dtype
    return StoredTensor(
        shape=tuple(shape), dtype=str(dtype).removeprefix("torch."), bytes=stored.size, digest=stored.digest
    )


def verify(path: str | os.PathLike[str]) -> Inspection:
    """Read and check all of a checkpoint, tensors too. Raises `CheckpointError` with what is wrong."""
    with open_checkpoint(path) as content:
        read_state(content)
        return inspection_of(content)


def read_state(content: Content) -> Flattened:
    """Read a checkpoint's state as a tree and tensors, without a learner; all of it is checked."""
    tensors = dict(content.tensors())
    spec = Spec(content.shapes("params"), content.shapes("buffers"), torch.device("cpu"))
    _build_state(content, tensors, spec, torch.nn.Identity(), [], empty={})
    return Flattened(content.tree, tensors)


def diff(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Difference:
    """Return how the states of two checkpoints differ: in which tensors, by their bits, and in which values.

    Times are left out, and so are the versions that saved them. `state.diff(other)` does the same for states. Both
    files are read and checked in full first. Raises `CheckpointError`.
    """
    with open_checkpoint(first) as one, open_checkpoint(second) as other:
        return difference(read_state(one), read_state(other))
