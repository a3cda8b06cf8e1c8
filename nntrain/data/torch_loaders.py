"""Loaders of other libraries, read so that batch k of an epoch is a function of (key, epoch, k).

A torch DataLoader over map-style data is `Indexed`: an epoch's order is drawn as indices, those before the start are
skipped, and only the batches asked for are made. Anything else that can be iterated again is `Replayed`: the batches
before the start are made and dropped, since there is no other way to the next one.

Either way each batch has a seed of its own, in whichever process it is made, and what has `set_epoch` is told the epoch
before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice, tee
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    get_worker_info,
)

from nntrain.data.dividing import Part, taken_rows
from nntrain.data.epochs import tell_epoch
from nntrain.data.memory import History, Tell, ignored
from nntrain.ranks.world import World
from nntrain.values.key import Key
from nntrain.values.randomness import drawn_so_far, seed_for_transforms, transforming
from nntrain.values.trees import rows_between

Batch = TypeVar("Batch")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Replayed(Generic[Batch]):
    """An iterable that cannot start in the middle. Its own generators are seeded, and restored after each batch."""

    items: Iterable[Batch]
    tell: Tell = field(default=ignored, repr=False, compare=False)
    history: History = field(default_factory=History, repr=False, compare=False)

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Iterate from the beginning of the epoch, and yield the batches from `start` on."""
        found: Iterator[Batch] = self.history.items(self.items, key, epoch, self.tell)
        return islice(found, start, None)

    @property
    def description(self) -> Mapping[str, object]:
        """How the loader gets to a start within an epoch."""
        return {"kind": type(self.items).__name__, "start": "by replay"}


@dataclass(frozen=True)
class Indexed(Generic[Batch]):
    """A DataLoader over map-style data. Workers change no bit: each batch is seeded in the process that makes it."""

    loader: DataLoader[Any]
    tell: Tell = field(default=ignored, repr=False, compare=False)
    history: History = field(default_factory=History, repr=False, compare=False)

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Iterate over the epoch's batches from `start` on; none before it is made."""
        return self._made(key, epoch, start, self._batch_indices(key, epoch, start))

    @property
    def divisible(self) -> bool:
        """Whether a rank makes its part of a batch alone: torch's own collate function is known to go row by row."""
        return self.loader.batch_sampler is not None and self.loader.collate_fn is default_collate

    def parts(self, key: Key, epoch: int, start: int, world: World) -> Iterator[Part[Batch]]:
        """Iterate over a rank's parts of the same batches; where the data draw no random number, of its items alone."""
        taken = ((indices, taken_rows(len(indices), world)) for indices in self._batch_indices(key, epoch, start))
        jobs, sizes = tee(_Part(indices, *rows) for indices, rows in taken)
        made: Iterator[Batch] = self._made(key, epoch, start, jobs)
        return (Part(batch, one.rows, len(one.indices)) for batch, one in zip(made, sizes, strict=False))

    def _made(self, key: Key, epoch: int, start: int, indices: Iterator[Any]) -> Iterator[Batch]:
        theirs, order = self.loader, key.fold_in(epoch)
        tell_epoch(theirs, epoch)
        seeds = (order.fold_in(number).bits for number in count(start))
        if theirs.num_workers:
            options: dict[str, Any] = {
                "prefetch_factor": theirs.prefetch_factor,
                "multiprocessing_context": theirs.multiprocessing_context,
                "worker_init_fn": _WorkerInit(theirs.worker_init_fn),
                "timeout": theirs.timeout,
            }
        else:
            options = {}
        ours: DataLoader[Batch] = DataLoader(
            _SeededDataset(theirs.dataset, theirs.collate_fn, auto_collation=theirs.batch_sampler is not None),  # type: ignore[arg-type] # what has __getitem__ will do
            batch_size=None,
            sampler=_OneShotSampler(zip(seeds, indices, strict=False)),
            num_workers=theirs.num_workers,
            collate_fn=identity,
            pin_memory=theirs.pin_memory,
            generator=torch.Generator().manual_seed(order.bits),
            **options,
        )
        return iter(ours)

    def _batch_indices(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        """Iterate over each batch's list of indices, or over single ones where the dataset makes batches."""
        sampler: Iterable[Any] = self.loader.sampler if self.loader.batch_sampler is None else self.loader.batch_sampler
        if type(sampler) is BatchSampler:
            rows = _epoch_order(sampler.sampler, key.fold_in(epoch))
            if rows is not None:
                size = sampler.batch_size
                end = len(rows) - len(rows) % size if sampler.drop_last else len(rows)
                return (_as_list(rows[first : min(first + size, end)]) for first in range(start * size, end, size))
        return islice(self.history.order(self.loader, sampler, key, epoch, self.tell), start, None)

    @property
    def description(self) -> Mapping[str, object]:
        """How the loader gets to a start within an epoch."""
        return {"kind": type(self.loader).__name__, "start": "by index", "workers": self.loader.num_workers}


def torch_loader(items: Iterable[Batch], tell: Tell = ignored) -> Indexed[Batch] | Replayed[Batch]:
    """Return the loader read by index where that is possible, else by replay."""
    if isinstance(items, DataLoader) and not isinstance(items.dataset, IterableDataset):
        # A subclass's own __iter__ may do anything; torchdata's does what torch's does, and counts its batches.
        own = any(getattr(type(items), name) is not getattr(DataLoader, name) for name in ("__iter__", "_get_iterator"))
        if not own or type(items).__module__.startswith("torchdata.stateful_dataloader"):
            return Indexed(items, tell, History.of(items))
    return Replayed(items, tell, History.of(items))


class _Part(NamedTuple):
    """Which items of a batch are made: those from `first` up to `last`, of which `rows` count."""

    indices: list[Any]
    first: int
    last: int
    rows: int


class _SeededDataset:
    """A dataset whose items are whole batches: from (seed, indices), under that seed."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], *, auto_collation: bool) -> None:
        self.dataset = dataset
        self._collate = collate
        self._auto_collation = auto_collation
        inner = dataset
        while type(inner) is Subset:
            inner = inner.dataset
        self._is_deterministic = type(inner) is TensorDataset and collate is default_collate
        self._draws = False
        """Whether an item was seen to draw a random number, in this process."""

    def __getitem__(self, seeded: tuple[int, Any]) -> Any:
        seed, indices = seeded
        if type(indices) is not _Part:
            return self._under(seed, self._make_batch, indices)
        made = self._under(seed, self._make_part, indices)
        if made is None:
            whole = self._under(seed, self._make_batch, indices.indices)
            made = rows_between(whole, indices.first, indices.last)
        return made

    def _under(self, seed: int, make: Callable[[Any], Any], given: Any) -> Any:
        """Return what is made under a seed."""
        if self._is_deterministic:
            return make(given)
        if get_worker_info() is not None:  # a worker process: nobody else uses its generators
            seed_for_transforms(seed)
            return make(given)
        with transforming(seed):
            return make(given)

    def _make_part(self, part: _Part) -> Any:
        """Return some items of a batch as they are in it: what they draw depends on those before them."""
        if not self._draws:
            before = drawn_so_far()
            made = self._make_batch(part.indices[part.first : part.last])
            if self._is_deterministic or drawn_so_far() == before:
                return made
            self._draws = True
        return None

    def _make_batch(self, indices: Any) -> Any:
        if not self._auto_collation:
            return self._collate(self.dataset[indices])
        at_once = getattr(self.dataset, "__getitems__", None)
        return self._collate(at_once(indices) if at_once else [self.dataset[index] for index in indices])


class _WorkerInit:
    """Calls the user's `worker_init_fn` in a worker, where `get_worker_info().dataset` is the user's dataset."""

    def __init__(self, theirs: Callable[[int], object] | None) -> None:
        self._worker_init_fn = theirs

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        seeded: object = getattr(info, "dataset", None)
        if isinstance(seeded, _SeededDataset):
            # The worker's copy, which is the one that is read. torch's info refuses plain assignment.
            object.__setattr__(info, "dataset", seeded.dataset)
        if self._worker_init_fn is not None:
            self._worker_init_fn(worker)


class _OneShotSampler:
    """An iterator as a sampler, which one DataLoader reads once."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return self._items


def identity(batch: Item) -> Item:
    """Return a batch as it is: a `collate_fn` that workers can import."""
    return batch


def _epoch_order(sampler: object, order: Key) -> range | torch.Tensor | None:
    """Return the whole epoch's order of indices; None for samplers that can only be iterated."""
    if type(sampler) is SequentialSampler:
        return range(len(sampler.data_source))
    if type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None:
        return torch.randperm(len(sampler.data_source), generator=torch.Generator().manual_seed(order.bits))
    return None


def _as_list(rows: range | torch.Tensor) -> list[int]:
    return list(rows) if isinstance(rows, range) else rows.tolist()
