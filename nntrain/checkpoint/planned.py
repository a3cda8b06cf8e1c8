"""Sharded checkpoints by `torch.distributed.checkpoint`: its planners say which rank writes and reads which parts.

What they plan is written and read here, and not by torch's own storage: that has its metadata in a pickle, which runs
code where it is loaded, and no digest of anything. Its safetensors storage has no metadata beside the files' own, no
digests either, and makes the files whole with the process that wrote them still at it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from nntrain.checkpoint.manifest import File, Finish, Manifest, Part, file_name, write_parts
from nntrain.errors import CheckpointError


def save_parts(
    tensors: Mapping[str, Tensor],
    folder: Path,
    finish: Finish,
    *,
    target: Path,
    group: dist.ProcessGroup | None,
    cancelled: Callable[[], bool],
) -> None:
    """Write this rank's parts of tensors into a file in `folder`; then rank 0 calls `finish` (collective).

    `target` is what the folder will be called. A sharded tensor is given by all ranks, any other by rank 0. Raises
    `CheckpointError` on all ranks where one fails.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    writer = _Writer(folder, finish, cancelled)
    try:
        save(dict(tensors), storage_writer=writer, planner=planner, process_group=group)
    except CheckpointException as error:
        raise _first_failure(error, str(target), "unwritable") from error


def load_parts(manifest: Manifest, into: dict[str, Tensor], *, group: dist.ProcessGroup | None = None) -> None:
    """Read tensors into the memory of those given by name: of sharded ones this rank's parts (collective).

    Raises `CheckpointError` on all ranks where one finds damage.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        load(into, storage_reader=_Reader(manifest), planner=planner, process_group=group)
    except CheckpointException as error:
        raise _first_failure(error, str(manifest.folder), "unreadable") from error


def _first_failure(error: CheckpointException, path: str, problem: Any) -> BaseException:
    """Return what the first rank that failed has failed with."""
    rank, (cause, _) = min(error.failures.items())
    if isinstance(cause, (CheckpointError, KeyboardInterrupt)):
        return cause
    return CheckpointError(path, problem, f"rank {rank} has failed: {type(cause).__name__}: {cause}".removesuffix("."))


class _Writer(StorageWriter):
    """Writes what is planned for a rank into one file."""

    def __init__(self, folder: Path, finish: Finish, cancelled: Callable[[], bool]) -> None:
        self._folder = folder
        self._finish = finish
        self._cancelled = cancelled

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: it writes once."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the folder is there."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans with the name of each rank's file."""
        return [replace(plan, storage_data=file_name(rank, len(plans))) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the file, and return for each part the file's name, size and digest, and the part's."""
        items = {item.index.fqn: item for item in plan.items}
        found: list[WriteResult] = []
        if items:
            name: str = plan.storage_data
            tensors = {key: cast(Tensor, planner.resolve_data(item)).detach() for key, item in items.items()}
            file, digests = write_parts(tensors, self._folder / name, self._cancelled)
            found = [
                WriteResult(item.index, tensors[key].nbytes, (name, file, digests[key])) for key, item in items.items()
            ]
        done: Future[list[WriteResult]] = Future()
        done.set_result(found)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Put together what the ranks have written."""
        files: dict[str, File] = {}
        parts: dict[str, list[Part]] = {}
        for one in (one for of_rank in results for one in of_rank):
            name, file, digest = one.storage_data
            files[name] = file
            described = metadata.state_dict_metadata[one.index.fqn]
            assert isinstance(described, TensorStorageMetadata)
            first, rows = _rows(one.index, described)
            parts.setdefault(one.index.fqn, []).append(Part(name, first, rows, digest))
        self._finish(files, {name: sorted(of, key=lambda part: (part.first, part.rows)) for name, of in parts.items()})

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003 - torch's
        """Return False: it is not found by a path."""
        return False


def _rows(index: MetadataIndex, described: TensorStorageMetadata) -> tuple[int, int]:
    """Return the first row of a part, and how many it has. Raises `CheckpointError` for one that is not of rows."""
    offset = index.offset or torch.Size([0] * len(described.size))
    sizes = next(chunk.sizes for chunk in described.chunks if chunk.offsets == offset)
    if not described.size:
        return 0, 1
    if any(offset[1:]) or sizes[1:] != described.size[1:]:
        raise CheckpointError(
            "the state",
            "unsavable",
            f"{index.fqn} is sharded over another dimension than its first. Save it in one file: sharded=False",
        )
    return offset[0], sizes[0]


class _Reader(StorageReader):
    """Reads what is planned for a rank, each part in full, as its digest is of all of it."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: it reads once."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002 - torch's
        """Return what there is, as torch describes it."""
        described: dict[str, Any] = {}
        for name, stored in self._manifest.head.tensors.items():
            shape, dtype = stored.shape_and_dtype
            chunks = [
                ChunkStorageMetadata(
                    torch.Size([part.first, *([0] * (len(shape) - 1))][: len(shape)]),
                    torch.Size([part.rows, *shape[1:]][: len(shape)]),
                )
                for part in self._manifest.parts[name]
                if part.rows
            ]
            described[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), shape, chunks)
        return Metadata(described)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the manifest was read."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read each part that is wanted once, check it, and copy from it what is wanted of it."""
        wanted: dict[tuple[str, Part], list[Any]] = {}
        for item in plan.items:
            name, offset = item.storage_index.fqn, item.storage_index.offset
            first = offset[0] if offset else 0
            part = next(one for one in self._manifest.parts[name] if one.first == first and one.rows)
            wanted.setdefault((name, part), []).append(item)
        with self._manifest.opened() as opened:
            for (name, part), items in wanted.items():
                content = opened.part(name, part)
                for item in items:
                    found = content
                    for dimension, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                        found = found.narrow(dimension, start, length)
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(found)
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003 - torch's
        """Return False: it is not found by a path."""
        return False
