"""Where batches come from: batch k of epoch e is a function of (key, epoch, k).

A `Loader` is asked for an epoch's batches from a start. Sequences of batches, torch DataLoaders and anything that can
be iterated again become one by `as_loader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeGuard, TypeVar, cast, runtime_checkable

import torch
from torch.utils.data import BatchSampler, DataLoader

from nntrain.data.epochs import tell_epoch
from nntrain.data.memory import Tell, ignored
from nntrain.data.torch_loaders import Indexed, Replayed, torch_loader
from nntrain.errors import ConfigError, DataError
from nntrain.values.key import Key
from nntrain.values.randomness import transforming

Batch = TypeVar("Batch")
BatchOut_co = TypeVar("BatchOut_co", covariant=True)


@runtime_checkable
class Loader(Protocol[BatchOut_co]):
    """Batches as a function of (key, epoch, start)."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[BatchOut_co]:
        """Iterate over an epoch's batches from number `start` on; they depend on these three only."""
        ...


@runtime_checkable
class Movable(Protocol[BatchOut_co]):
    """A loader that makes its batches on a device itself, which is faster than moving each of them there."""

    def to(self, device: torch.device) -> Loader[BatchOut_co]:
        """Return a loader of the same batches, on `device`."""
        ...


@runtime_checkable
class Described(Protocol):
    """A loader that describes itself in the run's log."""

    @property
    def description(self) -> Mapping[str, object]:
        """Plain values: the kind of loader, and why it was chosen."""
        ...


class TrainValid(Protocol[BatchOut_co]):
    """What a learner trains and evaluates on: `DataLoaders`, or anything with these two."""

    @property
    def train(self) -> Iterable[BatchOut_co] | Loader[BatchOut_co]:
        """The batches to train on."""
        ...

    @property
    def valid(
        self,
    ) -> Iterable[BatchOut_co] | Loader[BatchOut_co] | Mapping[str, Iterable[BatchOut_co] | Loader[BatchOut_co]] | None:
        """The batches to evaluate on: of one set, of several by name, or None."""
        ...


@dataclass(frozen=True)
class SequenceLoader(Generic[Batch]):
    """A sequence of batches, in its own order."""

    items: Sequence[Batch]

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the items from `start` on. Each has its own seed, for a sequence that makes its items on access."""
        if type(self.items) in {list, tuple}:
            yield from self.items[start:]
            return
        tell_epoch(self.items, epoch)
        for index in range(start, len(self.items)):
            with transforming(key.derived(epoch, index)):
                item = self.items[index]
            yield item

    @property
    def description(self) -> Mapping[str, object]:
        """How the loader gets to a start within an epoch."""
        return {"kind": type(self.items).__name__, "start": "by index"}


def as_loader(items: Iterable[Batch] | Loader[Batch], name: str, tell: Tell = ignored) -> Loader[Batch]:
    """Return a `Loader` of anything that can be iterated again.

    `name` is for the error, like "dls.train"; `tell` takes a note where an order may not be that of a straight run.
    """
    if callable(getattr(items, "batches", None)) and isinstance(items, Loader):
        return items
    if isinstance(items, Iterator) or not isinstance(items, Iterable):
        raise ConfigError(
            f"{name} is {type(items).__name__}, which cannot be read once per epoch. "
            f"Pass a list of batches or a torch DataLoader."
        )
    if getattr(items, "persistent_workers", False):
        raise ConfigError(
            f"{name} keeps its workers from epoch to epoch (persistent_workers=True), and in them randomness "
            f"that no state holds. Make the DataLoader with persistent_workers=False."
        )
    if isinstance(items, Sequence):
        return SequenceLoader(items)
    return torch_loader(items, tell)


def on_device(loader: Loader[Batch], device: torch.device) -> Loader[Batch]:
    """Return the loader that makes its batches on `device`, where it can."""
    return loader.to(device) if isinstance(loader, Movable) else loader


def description_of(loader: Loader[Batch]) -> Mapping[str, object]:
    """Return what the run's log says of a loader."""
    return loader.description if isinstance(loader, Described) else {"kind": type(loader).__name__}


def length_of(items: object) -> int | None:
    """Return how many batches a loader has, None where it does not know."""
    try:
        return len(items)  # type: ignore[arg-type] # anything may be given; what has no length raises
    except TypeError:
        return None


class Rows(NamedTuple):
    """The rows of a data set, where they are known, and how many are in a batch; the last may be short."""

    batch_size: int
    samples: int | None

    def before(self, batch: int) -> int:
        """Return how many rows are in the batches before a batch of that number."""
        rows = batch * self.batch_size
        return rows if self.samples is None else min(rows, self.samples)


@runtime_checkable
class _HasRows(Protocol):
    """A loader that knows its rows, as those of images do."""

    @property
    def batch_size(self) -> int: ...

    @property
    def samples(self) -> int: ...


def rows_of(loader: object) -> Rows | None:
    """Return the rows of a loader, None where it has batches of sizes that are not known."""
    items = loader.items if isinstance(loader, Replayed) else None
    if type(items) is DataLoader and not items.num_workers:  # each worker would have a short last batch of its own
        return None if items.batch_size is None else Rows(items.batch_size, None)
    if isinstance(loader, Indexed):
        sampler = loader.loader.batch_sampler
        return Rows(sampler.batch_size, length_of(sampler.sampler)) if type(sampler) is BatchSampler else None
    if not isinstance(loader, _HasRows):
        return None
    size, samples = loader.batch_size, loader.samples
    return Rows(size, samples) if isinstance(size, int) and isinstance(samples, int) else None


def sizes_of(items: Iterable[Batch] | Loader[Batch], name: str) -> dict[str, int]:
    """Return how many batches a loader has, their size and their samples, as far as that is known."""
    rows = rows_of(as_loader(items, name))
    found = {"batches": length_of(items)}
    if rows is not None:
        found |= {"batch_size": rows.batch_size, "samples": rows.samples}
    return {what: count for what, count in found.items() if count is not None}


class Source(NamedTuple, Generic[Batch]):
    """Where the batches of a phase come from: what messages call it, the set's name, and the batches."""

    where: str
    name: str
    items: Iterable[Batch] | Loader[Batch]
    train: bool


Valid = Iterable[Batch] | Loader[Batch] | Mapping[str, Iterable[Batch] | Loader[Batch]] | None


def has_names(valid: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether it is several sets by name, and no loader."""
    return isinstance(valid, Mapping) and not callable(getattr(valid, "batches", None))


def eval_sets(valid: Valid[Batch]) -> dict[str, Iterable[Batch] | Loader[Batch]]:
    """Return what is to be evaluated, by name: nothing, one set without a name, or those of a mapping in its order."""
    if valid is None:
        return {}
    return dict(valid) if has_names(valid) else {"": cast("Iterable[Batch] | Loader[Batch]", valid)}


def sources(dls: TrainValid[Batch]) -> list[Source[Batch]]:
    """Return where the batches of each phase of an epoch come from, in order."""
    sets = eval_sets(dls.valid).items()
    return [
        Source("dls.train", "", dls.train, train=True),
        *(Source(f"dls.valid[{name!r}]" if name else "dls.valid", name, items, train=False) for name, items in sets),
    ]


def check_names(sets: Mapping[Any, object]) -> None:
    """Raise `ConfigError` for names of sets that cannot be told, written into a log or monitored."""
    if not sets:
        raise ConfigError("dls.valid is an empty mapping; expected loaders by name, or None to evaluate on nothing.")
    for name in sets:
        odd = not isinstance(name, str) or not name or not name.isprintable() or name.strip() != name
        if odd or "/" in name or name == "train":
            raise ConfigError(
                f"dls.valid names a set {name!r}; expected a text of one line without '/', other than 'train'."
            )


def check_data(dls: TrainValid[Any]) -> None:
    """Raise `ConfigError` or `DataError` for what has no batches to train and to evaluate on."""
    for name in ("train", "valid"):
        if not hasattr(dls, name):
            raise ConfigError(
                f"dls is {type(dls).__name__} without .{name}; expected DataLoaders(train, valid) "
                f"or DataLoaders.from_hf_dd(dataset_dict)."
            )
    if has_names(dls.valid):
        check_names(dls.valid)
    for where, _, items, _ in sources(dls):
        as_loader(items, where)
        if length_of(items) == 0:
            raise DataError(f"{where} has no batch; expected at least one. Check what it was made from.")
