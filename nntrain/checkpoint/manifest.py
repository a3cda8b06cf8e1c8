"""A sharded checkpoint: a folder with one file of each rank's parts, and a manifest that says what they are parts of.

The files are checkpoints' files (see `nntrain.checkpoint.container`) of tensors alone. The manifest is JSON: the record
of a checkpoint, which also names the files with the digest of each, and the parts of each tensor; and the digest of
that record. A file's digest is of a record with the digest of each of its tensors. So a change of any bit is found,
and each rank reads and checks the parts that it needs. The manifest is written last: a folder without one is none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import torch
from torch import Tensor

from nntrain.checkpoint.container import FORMAT, VERSION, Head, Stored, offsets_of, read_head, read_tensor, write
from nntrain.errors import CheckpointError
from nntrain.values.shards import is_sharded, own_part

FORMAT_SHARDED: Final = f"{FORMAT}.sharded"
MANIFEST: Final = "manifest.json"
_MAX_MANIFEST: Final = 256 << 20
"""Bytes of a manifest; a longer one is not read."""


Finish = Callable[[Mapping[str, "File"], Mapping[str, "list[Part]"]], None]
"""What rank 0 does when all ranks have written: it is given the files, and the parts of each tensor in order."""


class File(NamedTuple):
    """One of the files: its size in bytes, and its digest."""

    bytes: int
    digest: str


class Part(NamedTuple):
    """Rows of a tensor, from `first` on, in a file; `digest` is that of their bytes. A 0-dim tensor is one row."""

    file: str
    first: int
    rows: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What a manifest says: `head` is that of a checkpoint in one file, but that `begin` says nothing."""

    folder: Path
    head: Head
    files: Mapping[str, File]
    parts: Mapping[str, Sequence[Part]]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors one by one, whole and on the CPU, each part checked. Raises `CheckpointError`."""
        with self.opened() as opened:
            for name in self.head.tensors:
                yield name, self._whole(name, opened)

    def _whole(self, name: str, opened: _Opened) -> Tensor:
        parts = self.parts[name]
        if len(parts) == 1:
            return opened.part(name, parts[0])
        shape, dtype = self.head.tensors[name].shape_and_dtype
        whole = torch.empty(shape, dtype=dtype, device="cpu")
        for part in parts:
            whole[part.first : part.first + part.rows].copy_(opened.part(name, part))
        return whole

    def opened(self) -> _Opened:
        """Return the files, to be read for a block."""
        return _Opened(self)


class _Opened:
    """The files of a sharded checkpoint, each opened and checked when it is first asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._files: dict[str, tuple[BinaryIO, Head, dict[str, int]]] = {}

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        for file, _head, _offsets in self._files.values():
            file.close()

    def part(self, name: str, part: Part) -> Tensor:
        """Read a part of a tensor, and check it."""
        file, head, offsets = self._file(part.file)
        path = str(self._manifest.folder / part.file)
        stored = head.tensors.get(name)
        if stored is None or stored.digest != part.digest:
            raise CheckpointError(path, "damaged", f"it has not the part of {name} that the manifest names")
        return read_tensor(file, path, head, name, offsets[name])

    def _file(self, name: str) -> tuple[BinaryIO, Head, dict[str, int]]:
        found = self._files.get(name)
        if found is None:
            path = self._manifest.folder / name
            try:
                file = path.open("rb")
            except OSError as error:
                raise CheckpointError(
                    str(self._manifest.folder), "damaged", f"its file {name} cannot be read ({error.strerror or error})"
                ) from error
            head = read_head(file, str(path))
            found = self._files[name] = file, head, offsets_of(head)
            said = self._manifest.files[name]
            if (head.bytes, head.digest) != said:
                raise CheckpointError(str(path), "damaged", "it is not the file that the manifest names")
        return found


def is_sharded_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder with a manifest."""
    return Path(path, MANIFEST).is_file()


def manifest_text(record: str) -> tuple[bytes, str]:
    """Return a manifest of a record's text, and its digest, which is the record's."""
    digest = hashlib.sha256(record.encode()).hexdigest()
    return json.dumps({"format": f"{FORMAT_SHARDED}/{VERSION}", "digest": digest, "record": record}).encode(), digest


def sharded_record(record: str, files: Mapping[str, File], parts: Mapping[str, Sequence[Part]]) -> str:
    """Return a record's text with what a manifest has beside it."""
    said = json.dumps({"files": files, "parts": parts}, separators=(",", ":"))
    return f"{record[:-1]},{said[1:]}"


def described(name: str, tensor: Tensor, parts: Sequence[Part]) -> Stored:
    """Return the description of a tensor, all of it, that is in parts. Raises `CheckpointError` for odd ones."""
    stored = Stored.of(name, own_part(tensor))._replace(digest=digest_of_parts(parts))
    if not is_sharded(tensor):
        return stored
    more = stored.shape[tensor.ndim :]  # where dtypes have no name of safetensors', bytes
    return stored._replace(shape=(*tensor.shape, *more), strides=None)


def file_name(rank: int, size: int) -> str:
    """Return the name of a rank's file."""
    return f"rank-{rank:05d}-of-{size:05d}.safetensors"


def write_parts(
    tensors: Mapping[str, Tensor], path: Path, cancelled: Callable[[], bool]
) -> tuple[File, Mapping[str, str]]:
    """Write the file of a rank's parts of tensors, all of it to the disk; return what it is, and their digests."""
    digests: dict[str, str] = {}

    def record(stored: Mapping[str, Stored]) -> str:
        digests.update({name: one.digest for name, one in stored.items()})
        return json.dumps({"tensors": {name: one.as_json() for name, one in stored.items()}}, separators=(",", ":"))

    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        return File(*write(number, tensors, record, cancelled=cancelled)), digests
    finally:
        os.close(number)


def save_alone(tensors: Mapping[str, Tensor], folder: Path, finish: Finish, cancelled: Callable[[], bool]) -> None:
    """Write all of the tensors into one file, as a process by itself; then call `finish`.

    It takes no planner of torch's, which takes seconds to import.
    """
    name = file_name(0, 1)
    file, digests = write_parts(tensors, folder / name, cancelled)
    finish(
        {name: file},
        {key: [Part(name, 0, one.shape[0] if one.ndim else 1, digests[key])] for key, one in tensors.items()},
    )


def digest_of_parts(parts: Sequence[Part]) -> str:
    """Return the digest of a tensor: that of its only part, or of its parts' digests in their order."""
    if len(parts) == 1:
        return parts[0].digest
    return hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()


def read_manifest(folder: str) -> Manifest:
    """Read and check a manifest, not the files that it names. Raises `CheckpointError`."""
    path = Path(folder, MANIFEST)
    try:
        size = path.stat().st_size
        text = path.read_bytes() if size <= _MAX_MANIFEST else b""
    except OSError as error:
        raise CheckpointError(
            folder, "unreadable", f"its manifest cannot be read ({error.strerror or error})"
        ) from error
    if not text:
        raise CheckpointError(folder, "damaged", f"its manifest has {size:,} bytes; 1 to {_MAX_MANIFEST:,} are read")
    try:
        said = json.loads(text)
        named, record_text = said["format"], said["record"]
        name, _, number = named.partition("/")
        if name != FORMAT_SHARDED or not number.isdecimal():
            raise CheckpointError(folder, "foreign", f"its manifest is of the format {named!r:.80}")
        if int(number) > VERSION:
            raise CheckpointError(
                folder,
                "version",
                f"it has the format {named}; this nntrain reads up to {FORMAT_SHARDED}/{VERSION}. Install a newer one",
            )
        made, digest = manifest_text(record_text)
        if made != text:
            raise ValueError("its record is not the one that its digest is of")
        return _parsed(Path(folder), int(number), digest, json.loads(record_text), size)
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            folder, "damaged", f"its manifest is none ({type(error).__name__}: {str(error)[:300]})"
        ) from None


def _parsed(folder: Path, version: int, digest: str, record: dict[str, Any], size: int) -> Manifest:
    files = {name: File(*said) for name, said in record.pop("files").items()}
    parts = {name: [Part(*one) for one in said] for name, said in record.pop("parts").items()}
    tensors = {name: Stored.read(name, said) for name, said in record["tensors"].items()}
    for name in files:
        if Path(name).name != name or name in {"", ".", ".."}:
            raise ValueError(f"it names a file {name!r:.80}")
    if parts.keys() != tensors.keys():
        raise ValueError("it has parts of other tensors than it describes")
    for name, stored in tensors.items():
        _check_parts(name, stored, parts[name], files)
    total = size + sum(one.bytes for one in files.values())
    return Manifest(folder, Head(version, digest, record, tensors, 0, total), files, parts)


def _check_parts(name: str, stored: Stored, parts: Sequence[Part], files: Mapping[str, File]) -> None:
    """Raise `ValueError` where the parts of a tensor are not all of it, each row once and in order."""
    follows = 0
    for part in parts:
        if part.file not in files or part.first != follows or type(part.rows) is not int or part.rows < 0:
            raise ValueError(f"of the tensor {name} it has the part {str(part)[:120]}")
        follows += part.rows
    shape, _ = stored.shape_and_dtype
    if not parts or follows != (shape[0] if shape else 1) or digest_of_parts(parts) != stored.digest:
        raise ValueError(f"of the tensor {name} it has not all parts")
