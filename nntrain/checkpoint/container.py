"""The file: safetensors, in a form in which a change of any bit is found.

Any safetensors tool reads it. A header names the tensors; its metadata hold the record, a JSON text that describes the
tensors, with a digest (SHA-256) of each, and a digest of that text. A record has exactly one header: `read_head` writes
it again and compares, which finds any change. Sizes are checked before memory is allocated, and the record's digest
before it is parsed.

safetensors' own functions are not used: they map the file into memory, so that a file which is cut short meanwhile ends
the process; they do not fix the order of the metadata; and the header cannot be written last, with the digests.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

import torch
from torch import Tensor

from nntrain.errors import CheckpointError
from nntrain.values.bits import as_bytes
from nntrain.values.tensors import plain_layout

Result = TypeVar("Result")

FORMAT: Final = "nntrain.checkpoint"
VERSION: Final = 1
MAX_HEADER: Final = 32 << 20
"""About 90,000 tensors. A file with a longer header is not read."""

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
"""The dtypes that safetensors has names for. Others are written as bytes, with torch's name in the record."""
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_HEADER_START: Final = re.compile(
    r'\{"__metadata__":\{"format":"nntrain\.checkpoint/([1-9][0-9]{0,8})","digest":"([0-9a-f]{64})","record":'
)
_MAX_DIMENSIONS: Final = 64
"""torch can make tensors with more dimensions, but not use them."""
_PENDING: Final = "0" * 64
"""Stands for a digest that is not known yet; it has the same length."""
_MAX_WAITING: Final = 4
"""How many tensors may wait for their digests while others are written."""


class Stored(NamedTuple):
    """A tensor's description in the record.

    `dtype` is safetensors' name. Where it has none, `kind` is torch's, and the last dimension of `shape` counts bytes.
    `strides` are None for a contiguous tensor. `device` is where the tensor was.
    """

    dtype: str
    shape: tuple[int, ...]
    digest: str
    device: str
    strides: tuple[int, ...] | None = None
    kind: str | None = None

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def shape_and_dtype(self) -> tuple[torch.Size, torch.dtype]:
        """Its shape and dtype, as torch has them."""
        if self.kind is not None:
            kind: torch.dtype = getattr(torch, self.kind)
            return torch.Size(self.shape[:-1]), kind
        return torch.Size(self.shape), DTYPES[self.dtype]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Stored:
        """Return a tensor's description, without its digest. Raises `CheckpointError` for one that is not dense."""
        unlike = plain_layout(tensor)
        if unlike is None and tensor.ndim > _MAX_DIMENSIONS:
            unlike = f"one of {tensor.ndim} dimensions; at most {_MAX_DIMENSIONS} are read"
        if unlike is not None:
            raise CheckpointError(
                name, "unsavable", f"the tensor {name} is {unlike}. Keep a plain one: tensor.to_dense(), or its parts"
            )
        dtype, shape, kind = _NAMES.get(tensor.dtype), tuple(tensor.shape), None
        if dtype is None:
            dtype, kind = "U8", str(tensor.dtype).removeprefix("torch.")
            shape = (*shape, tensor.dtype.itemsize)
        stored = cls(dtype, shape, _PENDING, tensor.device.type, tuple(tensor.stride()), kind)
        return stored._replace(strides=None) if tensor.is_contiguous() or not _is_dense(stored) else stored

    @classmethod
    def read(cls, name: str, said: Any) -> Stored:
        """Return the description that the record has of a tensor. Raises `ValueError`."""
        if not (isinstance(said, dict) and set(said) <= set(cls._fields)):
            raise ValueError(f"of the tensor {name} it says {str(said)[:80]}")
        parts: dict[str, Any] = {
            part: tuple(value) if isinstance(value, list) else value for part, value in said.items()
        }
        stored = cls(**parts)
        _check_stored(name, stored)
        return stored

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in the record."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def _check_stored(name: str, stored: Stored) -> None:
    shaped = all(
        isinstance(sizes, tuple)
        and len(sizes) <= _MAX_DIMENSIONS + 1  # a `kind` adds one, which counts bytes
        and all(type(size) is int and 0 <= size < 1 << 48 for size in sizes)
        for sizes in (stored.shape, stored.strides or ())
    )
    if not (
        shaped
        and stored.dtype in DTYPES
        and isinstance(stored.digest, str)
        and _DIGEST.fullmatch(stored.digest)
        and isinstance(stored.device, str)
        and (stored.kind is None or _is_other_kind(stored))
        and (stored.strides is None or _is_dense(stored))
    ):
        raise ValueError(f"of the tensor {name} it says {str(stored.as_json())[:200]}")


def _is_other_kind(stored: Stored) -> bool:
    kind = getattr(torch, stored.kind, None) if isinstance(stored.kind, str) else None
    return (
        isinstance(kind, torch.dtype)
        and kind not in _NAMES
        and stored.dtype == "U8"
        and stored.shape[-1:] == (kind.itemsize,)
    )


def _is_dense(stored: Stored) -> bool:
    """Return whether the strides leave no gap or overlap, so that no more memory is allocated than was read."""
    shape = stored.shape[:-1] if stored.kind else stored.shape
    if stored.strides is None or len(stored.strides) != len(shape):
        return False
    following = 1
    for stride, size in sorted(zip(stored.strides, shape, strict=True)):
        if size == 1:
            continue
        if stride != following:
            return False
        following *= size
    return True


def file_order(tensors: Mapping[str, Stored]) -> list[str]:
    """Return the names in the order of the file: the widest dtypes first, so that all are aligned."""
    return sorted(tensors, key=lambda name: (-DTYPES[tensors[name].dtype].itemsize, name))


def _header(version: int, digest: str, record: str, tensors: Mapping[str, Stored]) -> bytes:
    """Return the header, padded to a multiple of eight bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": f"{FORMAT}/{version}", "digest": digest, "record": record}}
    offset = 0
    for name in file_order(tensors):
        stored = tensors[name]
        entries[name] = {
            "dtype": stored.dtype,
            "shape": stored.shape,
            "data_offsets": [offset, offset + stored.size],
        }
        offset += stored.size
    text = json.dumps(entries, separators=(",", ":"))
    return (text + " " * (-len(text) % 8)).encode("ascii")


# -- writing ------------------------------------------------------------------------------------------------------


def write(
    file: int,
    tensors: Mapping[str, Tensor],
    record: Callable[[Mapping[str, Stored]], str],
    *,
    cancelled: Callable[[], bool],
) -> tuple[int, str]:
    """Write a checkpoint to an open file and sync it to the disk; returns its size in bytes and its digest.

    `record` returns the record's text for the tensors' descriptions: equally long for any digests. Stops with
    `CheckpointError` once `cancelled` returns True.
    """
    stored = {name: Stored.of(name, tensor) for name, tensor in tensors.items()}
    length = len(_header(VERSION, _PENDING, record(stored), stored))
    if length > MAX_HEADER:
        raise CheckpointError(
            "the state",
            "unsavable",
            f"to describe its {len(stored)} tensors takes {length:,} bytes; at most {MAX_HEADER:,} are read",
        )
    os.lseek(file, 8 + length, os.SEEK_SET)
    waiting: deque[tuple[str, memoryview, Future[str]]] = deque()
    # Digesting takes longer than writing. One thread digests during the writing, two during the last sync; and the disk
    # syncs the beginning while the rest is written.
    with ThreadPoolExecutor(1, "nntrain-digest") as digesting, ThreadPoolExecutor(1, "nntrain-sync") as syncing:
        synced = _submit(syncing, os.fsync, file)
        for name in file_order(stored):
            content = as_bytes(tensors[name].detach().cpu()).numpy().data
            waiting.append((name, content, _submit(digesting, _digest, content)))
            _write_all(file, content, cancelled)
            if synced.done():  # the disk is idle
                synced.result()
                synced = _submit(syncing, os.fsync, file)
            while len(waiting) > _MAX_WAITING and tensors[name].device.type != "cpu":
                first, _, digest_of_it = waiting.popleft()
                stored[first] = stored[first]._replace(digest=digest_of_it.result())
        synced.result()
        synced = _submit(syncing, os.fsync, file)
        for name, content, digest_of_it in reversed(waiting):
            found = _digest(content) if digest_of_it.cancel() else digest_of_it.result()
            stored[name] = stored[name]._replace(digest=found)
        synced.result()
    text = record(stored)
    digest = _digest(text.encode("ascii"))
    header = _header(VERSION, digest, text, stored)
    if len(header) != length:
        raise AssertionError("the header has changed its length")
    os.lseek(file, 0, os.SEEK_SET)
    _write_all(file, memoryview(struct.pack("<Q", length) + header), cancelled)
    os.fsync(file)
    return 8 + length + sum(one.size for one in stored.values()), digest


def _submit(pool: Executor, function: Callable[..., Result], *given: object) -> Future[Result]:
    """Call a function in the pool, or here at once, where the ending interpreter allows no more threads."""
    try:
        return pool.submit(function, *given)
    except RuntimeError:
        done: Future[Result] = Future()
        done.set_result(function(*given))
        return done


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


_CHUNK: Final = 16 << 20


def _write_all(file: int, content: memoryview, cancelled: Callable[[], bool]) -> None:
    while content:
        if cancelled():
            raise CheckpointError("the checkpoint", "unwritable", "its time was up before it was written")
        content = content[os.write(file, content[:_CHUNK]) :]


# -- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """All of a file but the tensors' content: the parsed record, and the description of each tensor."""

    version: int
    digest: str
    record: dict[str, Any]
    tensors: Mapping[str, Stored]
    begin: int
    bytes: int


def _other_kind(first: bytes) -> str:
    """Return what else a file may be, by its first bytes."""
    if first.startswith((b"PK\x03\x04", b"\x80\x02")):
        return ", but may be one of torch.save's: torch.load(path, weights_only=True) reads those"
    return f"; it begins with {first!r}"


def read_head(file: BinaryIO, path: str) -> Head:
    """Read and check all but the tensors' content. Raises `CheckpointError`."""

    def damaged(what: str) -> CheckpointError:
        return CheckpointError(path, "damaged", what)

    size = os.fstat(file.fileno()).st_size
    first = file.read(8)
    if not size:
        raise damaged("it is empty")
    if len(first) < 8:
        raise CheckpointError(path, "foreign", f"it is no safetensors file: it has {len(first)} bytes")
    (length,) = struct.unpack("<Q", first)
    begins = file.read(1)
    if begins not in {b"", b"{"} and (length > size - 8 or length > MAX_HEADER):
        raise CheckpointError(path, "foreign", f"it is no safetensors file{_other_kind(first)}")
    if length > MAX_HEADER or length > size - 8:
        raise CheckpointError(
            path,
            "damaged" if length <= MAX_HEADER else "foreign",
            f"its header is said to have {length:,} bytes, of the file's {size:,}; at most {MAX_HEADER:,} are read",
        )
    header = begins + file.read(max(length - len(begins), 0))
    beginning = _HEADER_START.match(header[:200].decode("latin-1"))
    if beginning is None or len(header) < length:
        raise _foreign(path, header)
    version, digest = int(beginning[1]), beginning[2]
    if version > VERSION:
        raise CheckpointError(
            path,
            "version",
            f"it has the format {FORMAT}/{version}; this nntrain reads up to {VERSION}. Install a newer one",
        )
    try:
        text, _ = json.JSONDecoder().raw_decode(header.decode("ascii"), beginning.end())
    except (ValueError, RecursionError) as error:
        raise damaged(f"its header is no text: {error}") from None
    if not isinstance(text, str) or _digest(text.encode("utf-8", "surrogatepass")) != digest:
        raise damaged("its record is not the one that its digest is of")
    record, tensors = _parse_record(path, text)
    if header != _header(version, digest, text, tensors):
        raise damaged("its header is not the one that goes with its record")
    expected = 8 + length + sum(stored.size for stored in tensors.values())
    if size != expected:
        raise damaged(f"it has {size:,} bytes, and should have {expected:,}")
    return Head(version, digest, record, tensors, 8 + length, size)


def _parse_record(path: str, text: str) -> tuple[dict[str, Any], dict[str, Stored]]:
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or not isinstance(record.get("tensors"), dict):
            raise ValueError("it names no tensors")  # noqa: TRY004 - of a file, not of an argument
        return record, {name: Stored.read(name, said) for name, said in record["tensors"].items()}
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(path, "damaged", f"its record is none: {error}") from None


def _foreign(path: str, header: bytes) -> CheckpointError:
    """Return the error for a damaged checkpoint, or for a file that is none."""
    if b"nntrain.checkpoint/" in header[:200]:
        return CheckpointError(path, "damaged", "its header does not begin as a checkpoint's does")
    try:
        known = isinstance(json.loads(header), dict)
    except (ValueError, RecursionError):
        known = False
    what = "a safetensors file of another maker" if known else "no safetensors file, or a damaged one"
    return CheckpointError(path, "foreign", f"it is {what}: it has no record of a training's state")


def read_tensors(file: BinaryIO, path: str, head: Head) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors one by one, on the CPU, each checked. Raises `CheckpointError`."""
    file.seek(head.begin)
    waiting: deque[tuple[str, Tensor, Future[str]]] = deque()

    def first() -> tuple[str, Tensor]:
        name, content, digest = waiting.popleft()
        return name, _checked(path, head, name, content, digest.result())

    # Digesting takes longer than reading: two threads do it while the next are read.
    with ThreadPoolExecutor(2, "nntrain-digest") as digesting:
        for name in file_order(head.tensors):
            content = _read(file, path, name, head.tensors[name].size)
            waiting.append((name, content, _submit(digesting, _digest, content.numpy().data)))
            if len(waiting) > _MAX_WAITING:
                yield first()
        while waiting:
            yield first()


def offsets_of(head: Head) -> dict[str, int]:
    """Return where the tensors' contents begin in the file."""
    found: dict[str, int] = {}
    at = head.begin
    for name in file_order(head.tensors):
        found[name] = at
        at += head.tensors[name].size
    return found


def read_tensor(file: BinaryIO, path: str, head: Head, name: str, offset: int) -> Tensor:
    """Read one tensor, whose content begins at an offset; it is on the CPU, checked. Raises `CheckpointError`."""
    file.seek(offset)
    content = _read(file, path, name, head.tensors[name].size)
    return _checked(path, head, name, content, _digest(content.numpy().data))


def _read(file: BinaryIO, path: str, name: str, size: int) -> Tensor:
    content = torch.empty(size, dtype=torch.uint8, device="cpu")
    view = content.numpy().data
    read = 0
    while read < size:
        count = file.readinto(view[read : read + _CHUNK])  # type: ignore[attr-defined] # a file opened for reading has it
        if not count:
            raise CheckpointError(path, "damaged", f"it ends within the tensor {name}")
        read += count
    return content


def _checked(path: str, head: Head, name: str, content: Tensor, digest: str) -> Tensor:
    """Return the tensor of a content. Raises `CheckpointError` where its digest, or its shape, is another."""
    stored = head.tensors[name]
    if digest != stored.digest:
        raise CheckpointError(path, "damaged", f"the tensor {name} is not the one that its digest is of")
    try:
        return _restore(stored, content)
    except RuntimeError as error:
        raise CheckpointError(path, "damaged", f"there is no such tensor as {name}: {error}") from None


def _restore(stored: Stored, content: Tensor) -> Tensor:
    shape, dtype = stored.shape_and_dtype
    tensor = content.view(dtype).reshape(shape)
    if stored.strides is not None:
        laid_out = torch.empty_strided(shape, stored.strides, dtype=dtype, device="cpu")
        return laid_out.copy_(tensor)
    return tensor


if sys.byteorder != "little":
    raise ImportError("nntrain.checkpoint reads and writes safetensors on little-endian machines only.")
