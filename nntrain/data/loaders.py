"""Where batches come from: batch k of epoch e is a function of (key, epoch, k).

A `Loader` is asked for an epoch's batches from a start. Sequences of batches, torch DataLoaders and anything that can
be iterated again are made into one by `as_loader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

from nntrain.data.torch_loaders import torch_loader
from nntrain.errors import ConfigError
from nntrain.values.key import Key
from nntrain.values.randomness import transforming

Batch = TypeVar("Batch")
BatchOut_co = TypeVar("BatchOut_co", covariant=True)


@runtime_checkable
class Loader(Protocol[BatchOut_co]):
    """Batches as a function of (key, epoch, start)."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[BatchOut_co]:
        """Iterate over an epoch's batches, beginning with number `start`; the order depends on nothing else."""
        ...


@runtime_checkable
class Movable(Protocol[BatchOut_co]):
    """A loader that can make its batches on a device itself, better than by moving each of them there."""

    def to(self, device: torch.device) -> Loader[BatchOut_co]:
        """Return a loader of the same batches, on `device`."""
        ...


@runtime_checkable
class Described(Protocol):
    """A loader that has something to say of itself in the run's log."""

    @property
    def description(self) -> Mapping[str, object]:
        """Plain values: the kind of loader, and how it was chosen."""
        ...


class TrainValid(Protocol[BatchOut_co]):
    """What a learner trains and evaluates on: `DataLoaders`, or anything with these two."""

    @property
    def train(self) -> Iterable[BatchOut_co] | Loader[BatchOut_co]:
        """The batches to train on."""
        ...

    @property
    def valid(self) -> Iterable[BatchOut_co] | Loader[BatchOut_co]:
        """The batches to evaluate on."""
        ...


@dataclass(frozen=True)
class _Listed(Generic[Batch]):
    """A sequence of batches, in its own order."""

    items: Sequence[Batch]

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the items from `start` on, each made under a seed of its own if the sequence makes them."""
        for index in range(start, len(self.items)):
            with transforming(key.derived(epoch, index)):
                item = self.items[index]
            yield item

    @property
    def description(self) -> Mapping[str, object]:
        """Return how a start within an epoch is reached."""
        return {"kind": type(self.items).__name__, "start": "by index"}


def as_loader(items: Iterable[Batch] | Loader[Batch], name: str) -> Loader[Batch]:
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
        return _Listed(items)
    return torch_loader(items)


def on_device(loader: Loader[Batch], device: torch.device) -> Loader[Batch]:
    """Return the loader that makes its batches on `device`, where it can."""
    return loader.to(device) if isinstance(loader, Movable) else loader


def description_of(loader: Loader[Batch]) -> Mapping[str, object]:
    """Return what the run's log says of a loader."""
    return loader.description if isinstance(loader, Described) else {"kind": type(loader).__name__}


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
        self.loader = loader
        self._fold = fold
        self._ready: Sequence[Batch] | None = None
        """The batches, where they are there already: a list or a tuple."""
        if isinstance(loader, _Listed) and type(loader.items) in {list, tuple}:
            self._ready = loader.items
        self._place: tuple[Key, int, int] | None = None
        self._end: tuple[Key, int, int] | None = None
        """Where the last batch was found to lie behind: asked again, nothing is begun anew to find it out."""
        self._iterator: Iterator[Any] = iter(())

    def batch(self, key: Key, epoch: int, index: int) -> tuple[Batch] | None:
        """Return batch `index` of `epoch` in a 1-tuple, or None past the last."""
        if self._ready is not None:
            return (self._ready[index],) if index < len(self._ready) else None
        end, self._end = self._end, None
        if end == (key, epoch, index):
            return None
        torch.default_generator.manual_seed(key.derived(self._fold, epoch, index))
        if self._place != (key, epoch, index):
            self.close()
            self._iterator = iter(self.loader.batches(key.fold_in(self._fold), epoch, index))
        self._place = None
        try:
            batch: Batch = next(self._iterator)
        except StopIteration:
            self.close()
            self._end = (key, epoch, index)
            return None
        self._place = (key, epoch, index + 1)
        return (batch,)

    def close(self) -> None:
        """Close the running iterator, and its workers."""
        close = getattr(self._iterator, "close", None)
        self._iterator = iter(())
        self._place = None
        if close is not None:
            close()
