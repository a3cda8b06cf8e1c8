"""Images that are decoded each time they are read, by the workers of a torch `DataLoader`."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as MapDataset

from nntrain.data.images.decoding import codecs
from nntrain.data.images.image_loader import CPU, ImageLoader
from nntrain.data.images.split import Pixels, Split
from nntrain.errors import DataError
from nntrain.values.key import Key
from nntrain.values.randomness import transforming

if TYPE_CHECKING:
    from datasets.arrow_dataset import Dataset

Item = TypeVar("Item")
Moved = TypeVar("Moved")

AHEAD: Final = 2
"""So many batches each worker has read before they are asked for."""

Job = tuple[int, list[int]]
"""A batch to read: what to seed randomness with, and the rows."""


@dataclass(frozen=True)
class HFLoader(ImageLoader):
    """Batches of images that are decoded each time, for data that cannot stay in memory or differ from read to read.

    Bits, shapes and dtypes are those of `hf_ds_collate_fn`. The batches are the same for any `num_workers`: processes
    that decode beside this one, or 0 for none. A transform of the dataset's own (`set_transform`) is kept, and must
    leave a PIL image; what it draws from the generators of torch, numpy and `random` is a function of (key, epoch,
    batch). Any other format (`set_format`) is left aside. `reason` says why the data are not resident.
    """

    dataset: Dataset = field(repr=False)
    batch_size: int
    image: str
    label: str
    flatten: bool = True
    shuffle: bool = False
    num_workers: int = 0
    reason: str = "asked for"
    device: torch.device = CPU

    @cached_property
    def split(self) -> Split:
        """The columns that are read."""
        return Split(self.dataset, self.image, self.label)

    @property
    def samples(self) -> int:
        """How many rows the split has."""
        return len(self.dataset)

    @property
    def classes(self) -> int:
        """How many classes there are: the ClassLabel's, or of plain integers one more than the greatest."""
        return self.split.classes

    @property
    def description(self) -> Mapping[str, object]:
        """That it is streamed and why, samples, and processes that decode."""
        return {"kind": "streamed", "reason": self.reason, "samples": self.samples, "workers": self.num_workers}

    def to(self, device: torch.device) -> HFLoader:
        """Give a loader of the same batches on `device`: to CUDA from pinned memory, and one batch ahead."""
        return self if device == self.device else replace(self, device=device)

    def _batches(self, key: Key, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.batch_size
        rows = self.order(key, epoch)[start * size :].tolist()
        jobs = [
            (key.derived(epoch, index), rows[first : first + size])
            for index, first in enumerate(range(0, len(rows), size), start)
        ]
        ready = map(_or_raise, self._read(jobs))
        if self.device.type == "cuda":
            return one_ahead(ready, self._moved)
        return map(self._moved, ready)

    def _moved(self, batch: Pixels) -> tuple[Tensor, Tensor]:
        pixels, labels = (one.to(self.device, non_blocking=one.is_pinned()) for one in batch)
        return self._scaled(pixels), labels

    def _read(self, jobs: Sequence[Job]) -> Iterator[Pixels | DataError]:
        workers = min(self.num_workers, len(jobs))
        if workers and not self.split.transformed:
            codecs()  # imported here, torchvision is there in each copy of this process; it takes seconds
        # A map-style dataset that is indexed with whole batches, so that torch's own collating has nothing to do.
        loader: DataLoader[Pixels | DataError] = DataLoader(
            _Reader(self.split),
            batch_size=None,
            sampler=_Jobs(jobs),
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=AHEAD if workers else None,
            multiprocessing_context=_context() if workers else None,
            generator=torch.Generator("cpu").manual_seed(0),  # or it would draw from the caller's
        )
        with torch.device("cpu"):  # it makes tensors of its own, where the caller's default device may be another
            return iter(loader)


class _Jobs(Sampler[Job]):
    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)


class _Reader(MapDataset[Pixels | DataError]):
    """Reads batches, in whatever process. A `DataError` is handed over: torch would put a traceback into its text."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __getitem__(self, job: Job) -> Pixels | DataError:
        bits, rows = job
        try:
            if not self._split.transformed:
                return self._split.read(rows)
            with transforming(bits):
                return self._split.read(rows)
        except DataError as error:
            return error


def one_ahead(items: Iterator[Item], move: Callable[[Item], Moved]) -> Iterator[Moved]:
    """Move each item before the one before it is asked for again; an error is raised where its item would come."""
    ended = object()
    waiting: list[Moved] = []
    failure: Exception | None = None
    while True:
        item: Item | object = ended
        try:
            item = next(items, ended)
            following = [] if item is ended else [move(item)]  # type: ignore[arg-type]  # what is not the end is an item
        except Exception as error:  # noqa: BLE001 - it is raised below, after what came before it was used
            failure, following = error, []
        yield from waiting
        if failure is not None:
            raise failure
        if not following:
            return
        waiting = following


def _or_raise(batch: Pixels | DataError) -> Pixels:
    if isinstance(batch, DataError):
        raise batch
    return batch


def _as_it_is(batch: Item) -> Item:
    return batch


def _context() -> BaseContext | None:
    """Start workers as copies where that is safe and nobody chose otherwise: a lambda of a transform can't be sent."""
    if sys.platform == "linux" and multiprocessing.get_start_method(allow_none=True) is None:
        return multiprocessing.get_context("fork")
    return None
