"""Where batches come from: batch k of epoch e is a function of (key, epoch, k).

A `Loader` is asked for an epoch's batches from a start. Sequences of batches, torch DataLoaders and anything that can
be iterated again are made into one by `as_loader`. A foreign loader knows no start: the batches before it are produced
and dropped, under the same seeds, so that the result is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

from nntrain.errors import ConfigError
from nntrain.randomness import generators, kept, seed_all
from nntrain.records import Key

Batch = TypeVar("Batch")
BatchOut_co = TypeVar("BatchOut_co", covariant=True)


@runtime_checkable
class Loader(Protocol[BatchOut_co]):
    """Batches as a function of (key, epoch, start)."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[BatchOut_co]:
        """Iterate over an epoch's batches, beginning with number `start`; the order depends on nothing else."""
        ...


class TrainValid(Protocol[BatchOut_co]):
    """What a learner trains and evaluates on: `DataLoaders`, or anything with these two."""

    @property
    def train(self) -> Iterable[BatchOut_co]:
        """The batches to train on."""
        ...

    @property
    def valid(self) -> Iterable[BatchOut_co]:
        """The batches to evaluate on."""
        ...


@dataclass(frozen=True)
class _Indexed(Generic[Batch]):
    """A sequence of batches, in its own order."""

    items: Sequence[Batch]

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:  # noqa: ARG002 - a sequence has one order
        return (self.items[index] for index in range(start, len(self.items)))


@dataclass(frozen=True)
class _Foreign(Generic[Batch]):
    """A torch DataLoader or another iterable, each batch produced under a seed of its own.

    The generators that the loader was given by its owner are seeded likewise, and put back after each batch.
    """

    items: Iterable[Batch]

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        own = _generators_of(self.items)
        sources = [*generators(), *own]
        order = key.fold(epoch)
        states: list[torch.Tensor] = []
        iterator: Iterator[Batch] | None = None
        index = 0
        while True:
            with kept(sources):
                seed_all(sources[:1], order.fold(index).bits)
                if iterator is None:
                    seed_all(own, order.bits)
                    iterator = iter(self.items)
                else:
                    for source, state in zip(own, states, strict=True):
                        source.set_state(state)
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                states = [source.get_state() for source in own]
            if index >= start:
                yield batch
            index += 1


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


def as_loader(items: Iterable[Batch], name: str) -> Loader[Batch]:
    """Make a `Loader` of whatever can be iterated again. `name` is for the error."""
    if callable(getattr(items, "batches", None)) and isinstance(items, Loader):
        return items
    if isinstance(items, Iterator) or not isinstance(items, Iterable):
        raise ConfigError(
            f"dls.{name} is {type(items).__name__}, which cannot be read once per epoch. "
            f"Pass a list of batches or a torch DataLoader."
        )
    if getattr(items, "persistent_workers", False):
        raise ConfigError(
            f"dls.{name} keeps its workers from epoch to epoch (persistent_workers=True), and in them randomness "
            f"that no state holds. Make the DataLoader with persistent_workers=False."
        )
    if isinstance(items, Sequence):
        return _Indexed(items)
    return _Foreign(items)


def length_of(items: object) -> int | None:
    """Count a loader's batches where it knows."""
    try:
        return len(items)  # type: ignore[arg-type] # asked of anything; those without a length say so
    except TypeError:
        return None


class Stream(Generic[Batch]):
    """One loader's running iterator, kept while the batches are asked for in order; any other batch begins anew.

    Whatever draws from torch's generator while a batch is made (an augmentation) draws what (key, epoch, batch) say.
    The caller keeps the generator.
    """

    def __init__(self, loader: Loader[Batch], fold: int) -> None:
        self._loader = loader
        self._fold = fold
        self._ready: Sequence[Batch] | None = None
        """The batches, where they are there already: a list or a tuple."""
        if isinstance(loader, _Indexed) and type(loader.items) in {list, tuple}:
            self._ready = loader.items
        self._place: tuple[Key, int, int] | None = None
        self._iterator: Iterator[Any] = iter(())

    def batch(self, key: Key, epoch: int, index: int) -> tuple[Batch] | None:
        """Give batch `index` of `epoch` in a 1-tuple, or None past the last."""
        if self._ready is not None:
            return (self._ready[index],) if index < len(self._ready) else None
        torch.default_generator.manual_seed(key.derived(self._fold, epoch, index))
        if self._place != (key, epoch, index):
            self.close()
            self._iterator = iter(self._loader.batches(key.fold(self._fold), epoch, index))
        self._place = None
        try:
            batch: Batch = next(self._iterator)
        except StopIteration:
            self.close()
            return None
        self._place = (key, epoch, index + 1)
        return (batch,)

    def close(self) -> None:
        """Let the running iterator, and its workers, go."""
        close = getattr(self._iterator, "close", None)
        self._iterator = iter(())
        self._place = None
        if close is not None:
            close()
