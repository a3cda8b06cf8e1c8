"""The stored images of a `datasets.Dataset`: the bytes of files, read from Arrow without a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from torch.utils.dlpack import from_dlpack

if TYPE_CHECKING:
    import pyarrow as pa


class Encoded(NamedTuple):
    """One stored image: the bytes of a file, or its path."""

    content: memoryview | None
    """The bytes of the file, which Arrow owns. None where only a path is stored."""
    tensor: Tensor | None
    """The same bytes, without a copy: uint8 [bytes], not to be written to."""
    path: str | None

    def read(self) -> Encoded:
        """Return it with the bytes of its file, where it is the path of one; otherwise as it is."""
        if self.content is not None or self.path is None or not Path(self.path).is_file():
            return self
        import pyarrow as pa

        buffer = pa.py_buffer(Path(self.path).read_bytes())
        return Encoded(memoryview(buffer), _tensor(buffer), self.path)


def encoded_images(column: pa.ChunkedArray) -> Iterator[Encoded | None]:
    """Yield each image of a column of type struct<bytes, path>; None for one that is missing."""
    for chunk in column.chunks:
        yield from _of_chunk(chunk)


def _of_chunk(chunk: pa.StructArray) -> Iterator[Encoded | None]:
    import pyarrow as pa

    # A file of 2 GB or more needs offsets of 64 bits, and no other width occurs: one cast, without copying the bytes.
    files = chunk.field("bytes").cast(pa.large_binary())
    paths = chunk.field("path").to_pylist()
    present = chunk.is_valid().to_pylist()
    stored = files.is_valid().to_pylist()
    _, offsets, buffer = files.buffers()
    view: memoryview | None = None
    whole: Tensor | None = None
    if buffer is not None and buffer.size > 0:
        view, whole = memoryview(buffer), _tensor(buffer)
    ends = memoryview(offsets).cast("q")[files.offset : files.offset + len(files) + 1].tolist() if len(files) else [0]
    for row, path in enumerate(paths):
        if not present[row]:
            yield None
        elif not stored[row]:
            yield Encoded(None, None, path)
        elif view is None or whole is None:
            yield Encoded(memoryview(b""), None, path)
        else:
            first, last = ends[row], ends[row + 1]
            yield Encoded(view[first:last], whole[first:last], path)


def _tensor(buffer: pa.Buffer) -> Tensor | None:
    import pyarrow as pa

    if buffer.size == 0:
        return None
    # By DLPack: torch.frombuffer and torch.from_numpy warn of memory that must not be written to.
    whole: Tensor = from_dlpack(pa.Array.from_buffers(pa.uint8(), buffer.size, [None, buffer]))
    return whole
