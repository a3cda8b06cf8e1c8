"""Loaders that others wrote, read so that batch k of an epoch is a function of (key, epoch, k).

A torch DataLoader over map-style data is `Indexed`: an epoch's order is drawn as indices, those before the start are
skipped, and only the batches asked for are made. Anything else that can be iterated again is `Replayed`: the batches
before the start are made and dropped, since there is no other way to the next one.

Either way each batch is made under a seed of its own, in whichever process it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Generic, TypeVar

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

from nntrain.values.key import Key
from nntrain.values.randomness import restoring_rng, seed_all, seed_for_transforms, transforming

Batch = TypeVar("Batch")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Replayed(Generic[Batch]):
    """An iterable that knows no start. What its owner gave it to draw from is seeded, and put back after each batch."""

    items: Iterable[Batch]

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Iterate from the beginning of the epoch, and give what comes from `start` on."""
        return islice(_iterated(self.items, _generators_of(self.items), key.fold_in(epoch)), start, None)

    @property
    def description(self) -> Mapping[str, object]:
        """Say how a start within an epoch is reached."""
        return {"kind": type(self.items).__name__, "start": "by replay"}


@dataclass(frozen=True)
class Indexed(Generic[Batch]):
    """A DataLoader over map-style data. Its workers change no bit: each batch is seeded where it is made."""

    loader: DataLoader[Any]

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Make the epoch's batches from `start` on, and none before it."""
        theirs, order = self.loader, key.fold_in(epoch)
        seeds = (order.fold_in(number).bits for number in count(start))
        if theirs.num_workers:
            options: dict[str, Any] = {
                "prefetch_factor": theirs.prefetch_factor,
                "multiprocessing_context": theirs.multiprocessing_context,
                "worker_init_fn": _Begin(theirs.worker_init_fn),
                "timeout": theirs.timeout,
            }
        else:
            options = {}
        ours: DataLoader[Batch] = DataLoader(
            _Seeded(theirs.dataset, theirs.collate_fn, auto_collation=theirs.batch_sampler is not None),  # type: ignore[arg-type] # what has __getitem__ will do
            batch_size=None,
            sampler=_Once(zip(seeds, self._indices(order, start), strict=False)),
            num_workers=theirs.num_workers,
            collate_fn=_as_made,
            pin_memory=theirs.pin_memory,
            generator=torch.Generator().manual_seed(order.bits),
            **options,
        )
        return iter(ours)

    def _indices(self, order: Key, start: int) -> Iterator[Any]:
        """Give what each batch is made of: a list of indices, or one where the dataset makes whole batches."""
        sampler: Iterable[Any] = self.loader.sampler if self.loader.batch_sampler is None else self.loader.batch_sampler
        if type(sampler) is BatchSampler:
            rows = _rows(sampler.sampler, order)
            if rows is not None:
                size = sampler.batch_size
                end = len(rows) - len(rows) % size if sampler.drop_last else len(rows)
                return (_listed(rows[first : min(first + size, end)]) for first in range(start * size, end, size))
        return islice(_iterated(sampler, _generators_of(self.loader), order), start, None)

    @property
    def description(self) -> Mapping[str, object]:
        """Say how a start within an epoch is reached."""
        return {"kind": type(self.loader).__name__, "start": "by index", "workers": self.loader.num_workers}


def torch_loader(items: Iterable[Batch]) -> Indexed[Batch] | Replayed[Batch]:
    """Read a loader by index where it allows that, else by replay."""
    if isinstance(items, DataLoader) and not isinstance(items.dataset, IterableDataset):
        # Another __iter__ may do anything; torchdata's does what torch's does, and keeps count of it.
        own = any(getattr(type(items), name) is not getattr(DataLoader, name) for name in ("__iter__", "_get_iterator"))
        if not own or type(items).__module__.startswith("torchdata.stateful_dataloader"):
            return Indexed(items)
    return Replayed(items)


class _Seeded:
    """A dataset that makes a whole batch of (seed, indices), under that seed."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], *, auto_collation: bool) -> None:
        self.dataset = dataset
        self._collate = collate
        self._auto_collation = auto_collation
        inner = dataset
        while type(inner) is Subset:
            inner = inner.dataset
        self._draws_nothing = type(inner) is TensorDataset and collate is default_collate

    def __getitem__(self, seeded: tuple[int, Any]) -> Any:
        seed, indices = seeded
        if self._draws_nothing:
            return self._made(indices)
        if get_worker_info() is not None:  # a process of its own, whose generators are nobody's
            seed_for_transforms(seed)
            return self._made(indices)
        with transforming(seed):
            return self._made(indices)

    def _made(self, indices: Any) -> Any:
        if not self._auto_collation:
            return self._collate(self.dataset[indices])
        at_once = getattr(self.dataset, "__getitems__", None)
        return self._collate(at_once(indices) if at_once else [self.dataset[index] for index in indices])


class _Begin:
    """What a worker begins with: the owner's own function, which finds the owner's own dataset."""

    def __init__(self, theirs: Callable[[int], object] | None) -> None:
        self._theirs = theirs

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        seeded: object = getattr(info, "dataset", None)
        if isinstance(seeded, _Seeded):
            # The worker's own copy of it, which is the one that is read. torch lets nobody assign to its info.
            object.__setattr__(info, "dataset", seeded.dataset)
        if self._theirs is not None:
            self._theirs(worker)


class _Once:
    """An iterator as a sampler: read once, by the DataLoader that is made for it."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return self._items


def _as_made(batch: Item) -> Item:
    return batch


def _rows(sampler: object, order: Key) -> range | torch.Tensor | None:
    """Give the whole epoch's order where it can be cut anywhere; None for samplers that only iterate."""
    if type(sampler) is SequentialSampler:
        return range(len(sampler.data_source))
    if type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None:
        return torch.randperm(len(sampler.data_source), generator=torch.Generator().manual_seed(order.bits))
    return None


def _listed(rows: range | torch.Tensor) -> list[int]:
    return list(rows) if isinstance(rows, range) else rows.tolist()


def _iterated(items: Iterable[Item], own: Sequence[torch.Generator], order: Key) -> Iterator[Item]:
    """Iterate, each item made under a seed of its own.

    The generators in `own`, which the iterable was given by its owner, are seeded once, and put back after each item.
    """
    sources = list(own)
    states: list[torch.Tensor] = []
    iterator: Iterator[Item] | None = None
    for number in count():
        with restoring_rng(sources), transforming(order.fold_in(number).bits):
            if iterator is None:
                seed_all(sources, order.bits)
                iterator = iter(items)
            else:
                for source, state in zip(own, states, strict=True):
                    source.set_state(state)
            try:
                item = next(iterator)
            except StopIteration:
                return
            states = [source.get_state() for source in own]
        yield item


def _generators_of(loader: object) -> list[torch.Generator]:
    """Find the generators that a DataLoader or its samplers were given."""
    found: list[torch.Generator] = []
    sampler = getattr(loader, "sampler", None)
    batch_sampler = getattr(loader, "batch_sampler", None)
    for holder in (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator) and generator not in found:
            found.append(generator)
    return [generator for generator in found if generator is not torch.default_generator]
