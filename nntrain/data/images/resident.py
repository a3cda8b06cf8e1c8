"""Images that are decoded once and stay in memory as uint8: a batch is a gather and a division."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from nntrain.data.images.image_loader import CPU, ImageLoader, Span
from nntrain.data.images.memory import format_bytes
from nntrain.data.images.split import Split
from nntrain.values.key import Key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROWS_PER_TASK: Final = 256
"""How many images a thread decodes at a time."""

WORTH_A_THREAD: Final = 1 << 14
"""From so many values in an image on, threads pay: with smaller images two threads, which wait for Python's lock in
turn, took twice as long as one."""

SEVERAL_SIZES: Final = "images of several sizes"
"""Why images that have not all one size are not resident."""

BAR_AFTER: Final = 2.0
"""Seconds after which a progress bar of the decoding appears."""


@dataclass(frozen=True, eq=False)
class ResidentLoader(ImageLoader):
    """Batches of images that are in memory: what `DataLoaders.from_hf_dd` returns where they fit.

    `images` are uint8 [N, C, H, W] and `labels` int64 [N], on `device` or on the CPU. Decoding took `seconds`.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    batch_size: int
    flatten: bool = True
    shuffle: bool = False
    known_classes: int | None = None
    seconds: float = 0.0
    device: torch.device = CPU
    split_name: str | None = None

    @property
    def samples(self) -> int:
        """How many rows the split has."""
        return len(self.images)

    @property
    def classes(self) -> int:
        """How many classes there are: the ClassLabel's, or the greatest integer plus one."""
        return self.known_classes if self.known_classes is not None else 1 + int(self.labels.max())

    @property
    def description(self) -> Mapping[str, object]:
        """The kind, split, samples, their shape [C, H, W], bytes and seconds of decoding, and where they are."""
        return {
            "kind": "resident",
            **self._named(),
            "samples": self.samples,
            "shape": list(self.images.shape[1:]),
            "bytes": self.images.nbytes,
            "seconds": round(self.seconds, 3),
            "held_on": str(self.images.device),
        }

    def to(self, device: torch.device) -> ResidentLoader:
        """Return a loader of the same batches on `device`.

        The images move to a CUDA device where they take at most half of its free memory. Otherwise they stay, and each
        batch is gathered into pinned memory and copied from there.
        """
        if str(device) == "cuda":  # whichever is current
            device = torch.device("cuda", torch.cuda.current_device())
        if device == self.device:
            return self
        fits = device.type == "cuda" and self.images.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
        holder = device if fits else CPU
        return replace(self, images=self.images.to(holder), labels=self.labels.to(holder), device=device)

    def _read(self, key: Key, epoch: int, start: int, spans: Sequence[Span]) -> Iterator[tuple[Tensor, Tensor]]:  # noqa: ARG002 - the spans say it
        rows = self.order(key, epoch)
        if self.images.device.type == "cuda":
            # From pinned memory the epoch's order is copied while the device goes on computing.
            return self._gather_on_device(rows.pin_memory().to(self.device, non_blocking=True), spans)
        return self._gather_on_cpu(rows.numpy(), spans)

    def _gather_on_device(self, rows: Tensor, spans: Sequence[Span]) -> Iterator[tuple[Tensor, Tensor]]:
        for first, last in spans:
            chosen = rows[first:last]
            yield self._scale(self.images.index_select(0, chosen)), self.labels.index_select(0, chosen)

    def _gather_on_cpu(self, rows: NDArray[np.int64], spans: Sequence[Span]) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.images.numpy(), self.labels.numpy()
        pinned = self.device.type == "cuda"
        for first, last in spans:
            chosen = rows[first:last]
            batch = [_gather(one, chosen, pinned=pinned) for one in (images, labels)]
            pixels, target = (one.to(self.device, non_blocking=pinned) for one in batch)
            yield self._scale(pixels), target


def _gather(source: NDArray[np.generic], rows: NDArray[np.int64], *, pinned: bool) -> Tensor:
    import numpy as np

    if not pinned:
        return torch.from_numpy(np.take(source, rows, axis=0))
    kind = torch.uint8 if source.dtype == np.uint8 else torch.int64
    # torch reuses the memory of a pinned tensor only when the copies from it are done.
    there = torch.empty((len(rows), *source.shape[1:]), dtype=kind, device="cpu", pin_memory=True)
    np.take(source, rows, axis=0, out=there.numpy(), mode="clip")  # all rows exist; mode="raise" would make a copy
    return there


class _MixedShapesError(Exception):
    """An image has another shape than the first one."""


def decode(split: Split, budget: int, allowed: str, name: str) -> tuple[Tensor, float] | str:
    """Return a split's images, uint8 [N, C, H, W], and the seconds that it took; or why it must be streamed.

    Args:
        split: what to decode.
        budget: the bytes that its images may take.
        allowed: the budget in words, for the reason.
        name: the split's name, for the progress bar.

    Raises:
        DataError: an image is missing or broken; the error names its row.
    """
    if split.transformed:
        return "the dataset has a transform of its own"
    began = time.perf_counter()
    (first,) = split.pixels(0, 1)
    needed = len(split) * math.prod(first.shape)
    if needed > budget:
        return f"{format_bytes(needed)} over {allowed}"
    with torch.inference_mode(False):  # loaders that are made within it may be read outside
        images = torch.empty((len(split), *first.shape), dtype=torch.uint8, device="cpu")
    try:
        _fill(images.numpy(), split, name)
    except _MixedShapesError:
        return SEVERAL_SIZES
    return images, time.perf_counter() - began


def _fill(images: NDArray[np.uint8], split: Split, name: str) -> None:
    from PIL import Image
    from tqdm import tqdm  # type: ignore[import-untyped]  # it has no py.typed

    def decode_rows(start: int) -> int:
        stop = min(start + ROWS_PER_TASK, len(split))
        for row, pixels in enumerate(split.pixels(start, stop), start):
            if pixels.shape != images.shape[1:]:
                raise _MixedShapesError
            images[row] = pixels
        return stop - start

    Image.init()  # its plugins load at the first use, which is not safe in several threads
    threads = processors() if images[0].size >= WORTH_A_THREAD else 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="nntrain-decode")
    try:
        with tqdm(total=len(split), desc=f"decoding {name}", unit=" images", delay=BAR_AFTER, disable=None) as bar:
            # In the order of the rows: of several broken images the first is reported, whichever thread was faster.
            for done in pool.map(decode_rows, range(0, len(split), ROWS_PER_TASK)):
                bar.update(done)
    finally:
        pool.shutdown(cancel_futures=True)


def processors() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
