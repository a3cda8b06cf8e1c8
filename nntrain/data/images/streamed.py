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
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from nntrain.data.epochs import tell_epoch
from nntrain.data.images.decoding import codecs
from nntrain.data.images.image_loader import CPU, ImageLoader, Span
from nntrain.data.images.split import Pixels, Split
from nntrain.data.torch_loaders import identity
from nntrain.errors import DataError
from nntrain.values.key import Key
from nntrain.values.randomness import transforming

if TYPE_CHECKING:
    from datasets.arrow_dataset import Dataset

Item = TypeVar("Item")
Moved = TypeVar("Moved")

PREFETCH: Final = 2
"""How many batches each worker reads ahead."""

Job = tuple[int, list[int]]
"""A batch to read: the seed of its random numbers, and the rows."""


@dataclass(frozen=True)
class HFLoader(ImageLoader):
    """Batches of images that are decoded each time, for data that do not fit into memory or have a random transform.

    Bits, shapes and dtypes are those of `hf_ds_collate_fn`. The batches are the same for any `num_workers`, the number
    of processes that decode beside this one. A transform of the dataset (`set_transform`) is applied, and must return a
    PIL image; what it draws from the generators of torch, numpy and `random` is a function of (key, epoch, batch). Any
    other format (`set_format`) is ignored. `reason` says why the data are not resident.
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
    split_name: str | None = None

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
        """How many classes there are: the ClassLabel's, or the greatest integer plus one."""
        return self.split.classes

    @property
    def description(self) -> Mapping[str, object]:
        """The kind, the split, the reason for the kind, the samples, and the number of worker processes."""
        return {
            "kind": "streamed",
            **self._named(),
            "reason": self.reason,
            "samples": self.samples,
            "workers": self.num_workers,
        }

    def to(self, device: torch.device) -> HFLoader:
        """Return a loader of the same batches on `device`: to CUDA from pinned memory, one batch ahead."""
        return self if device == self.device else replace(self, device=device)

    @property
    def divisible(self) -> bool:
        """Whether a rank reads its rows alone: what a transform draws depends on the rows before it in the batch."""
        return not self.split.transformed

    def _read(self, key: Key, epoch: int, start: int, spans: Sequence[Span]) -> Iterator[tuple[Tensor, Tensor]]:
        tell_epoch(self.dataset, epoch)
        rows = self.order(key, epoch).tolist()
        jobs = [(key.derived(epoch, index), rows[first:last]) for index, (first, last) in enumerate(spans, start)]
        ready = map(_or_raise, self._decoded(jobs))
        if self.device.type == "cuda":
            return prefetch_one(ready, self._to_device)
        return map(self._to_device, ready)

    def _to_device(self, batch: Pixels) -> tuple[Tensor, Tensor]:
        pixels, labels = (one.to(self.device, non_blocking=one.is_pinned()) for one in batch)
        return self._scale(pixels), labels

    def _decoded(self, jobs: Sequence[Job]) -> Iterator[Pixels | DataError]:
        workers = min(self.num_workers, len(jobs))
        if workers and not self.split.transformed:
            codecs()  # imported before the workers are forked: it takes seconds in each
        # A map-style dataset whose items are whole batches, so that torch has nothing to collate.
        loader: DataLoader[Pixels | DataError] = DataLoader(
            _Reader(self.split),
            batch_size=None,
            sampler=jobs,
            num_workers=workers,
            collate_fn=identity,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=PREFETCH if workers else None,
            multiprocessing_context=_worker_context() if workers else None,
            generator=torch.Generator("cpu").manual_seed(0),  # else it would draw from the caller's
        )
        with torch.device("cpu"):  # it makes tensors on the default device, which the caller may have changed
            return iter(loader)


class _Reader(MapDataset[Pixels | DataError]):
    """Reads batches, in any process. It returns a `DataError`: torch would add a traceback to one that is raised."""

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


def prefetch_one(items: Iterator[Item], move: Callable[[Item], Moved]) -> Iterator[Moved]:
    """Yield the items, each moved before the one before it is used; an error is raised in its item's place."""
    ended = object()
    waiting: list[Moved] = []
    failure: Exception | None = None
    while True:
        item: Item | object = ended
        try:
            item = next(items, ended)
            following = [] if item is ended else [move(item)]  # type: ignore[arg-type]  # it is an item unless it is the end
        except Exception as error:  # noqa: BLE001 - raised below, after the item before it was used
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


def _worker_context() -> BaseContext | None:
    """Return the context to fork workers, where forking is safe: unlike spawn, it allows lambdas as transforms."""
    if sys.platform == "linux" and multiprocessing.get_start_method(allow_none=True) is None:
        return multiprocessing.get_context("fork")
    return None
