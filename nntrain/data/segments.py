"""Epochs that are no pass over the data: batches k*e to k*(e+1) of the endless run through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, Generic, NamedTuple

import torch

from nntrain.data.divided import Divided, undivided
from nntrain.data.dividing import Part, makes_parts
from nntrain.data.loaders import (
    Batch,
    Loader,
    SequenceLoader,
    as_loader,
    description_of,
    length_of,
    on_device,
    rows_of,
)
from nntrain.data.torch_loaders import Indexed, Replayed
from nntrain.errors import ConfigError, DataError
from nntrain.ranks.world import World
from nntrain.values.key import Key
from nntrain.values.numbers import is_count
from nntrain.values.randomness import restoring_rng

_NONE: Final = object()
"""Stands for the batch after the last."""


class _Reading(NamedTuple):
    """An inner epoch that is read: its number, and that of its batch which comes next."""

    epoch: int
    batch: int
    batches: Iterator[Any]


class Segments(Generic[Batch]):
    """What `segments` returns."""

    def __init__(self, loader: Loader[Batch], size: int, length: int | None) -> None:
        self.loader = loader
        self.size = size
        self._length = length
        """How many batches each inner epoch has, None where that is not known."""
        self._lengths: dict[Key, list[int]] = {}
        """How many batches the inner epochs had that were read to their end: 0, 1, 2 ..."""
        self._kept: dict[tuple[Key, int], _Reading] = {}
        """What the last segment left, for the one after it, where the loader has no cheaper way to there."""
        self._divided: dict[World, Segments[Part[Batch]]] = {}

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of segment `epoch` from number `start` on."""
        place, end = epoch * self.size + start, (epoch + 1) * self.size
        if place >= end:
            return
        reading = self._reading_at(key, place)
        try:
            while place < end:
                found: Any = next(reading.batches, _NONE)
                if found is _NONE:
                    self._ended(key, reading)
                    reading = self._begin(key, reading.epoch + 1, 0)
                    continue
                if reading.batch == self._length:
                    self._ended(key, reading._replace(batch=reading.batch + 1))
                reading = reading._replace(batch=reading.batch + 1)
                place += 1
                yield found
        finally:
            if place == end and (self._length is None or isinstance(undivided(self.loader), Replayed)):
                self._kept = {(key, place): reading}
            else:
                _close(reading)

    @property
    def divisible(self) -> bool:
        """Whether the loader within makes a rank's part without the others'."""
        return makes_parts(self.loader)

    def parts(self, key: Key, epoch: int, start: int, world: World) -> Iterator[Part[Batch]]:
        """Yield a rank's parts of the same batches: segments of the loader's parts."""
        if world not in self._divided:
            self._divided[world] = Segments(Divided(self.loader, world), self.size, self._length)
        return self._divided[world].batches(key, epoch, start)

    def _reading_at(self, key: Key, place: int) -> _Reading:
        """Return the inner epoch that has a place of the endless run, at its batch there."""
        kept = self._kept.pop((key, place), None)
        if kept is not None:
            return kept
        if self._length is not None:
            return self._begin(key, *divmod(place, self._length))
        for epoch, length in enumerate(self._lengths.get(key, [])):
            if place < length:
                return self._begin(key, epoch, place)
            place -= length
        return self._run_through(key, place)

    def _run_through(self, key: Key, place: int) -> _Reading:
        """Return the place of the endless run, counted from the first inner epoch whose length is not known."""
        while True:
            epoch = len(self._lengths.get(key, []))
            with restoring_rng([torch.default_generator]):  # the batch after these draws what it always does
                reading = self._begin(key, epoch, 0)
                reading = reading._replace(batch=sum(1 for _ in islice(reading.batches, place)))
            if reading.batch == place and isinstance(undivided(self.loader), Replayed):
                return reading
            if reading.batch == place:
                _close(reading)
                return self._begin(key, epoch, place)
            self._ended(key, reading)
            place -= reading.batch

    def _begin(self, key: Key, epoch: int, start: int) -> _Reading:
        return _Reading(epoch, start, iter(self.loader.batches(key, epoch, start)))

    def _ended(self, key: Key, reading: _Reading) -> None:
        """Note how many batches an inner epoch had; raise `DataError` for none, and for other than it said to have."""
        if reading.batch == 0:
            raise DataError(
                f"segments: {self._name} gave no batch in epoch {reading.epoch}; expected at least one. Check what it "
                f"was made from."
            )
        if self._length not in {None, reading.batch}:
            more = "more" if reading.batch > (self._length or 0) else str(reading.batch)
            raise DataError(
                f"segments: {self._name} says that it has {self._length} batches, but gave {more} in epoch "
                f"{reading.epoch}. Where a segment begins is worked out from the length: let len() say how many there "
                f"are in each epoch, or let it have no len()."
            )
        lengths = self._lengths.setdefault(key, [])
        if self._length is None and len(lengths) == reading.epoch:
            lengths.append(reading.batch)

    @property
    def _name(self) -> str:
        loader = undivided(self.loader)
        held = {SequenceLoader: "items", Replayed: "items", Indexed: "loader"}.get(type(loader))
        return type(loader if held is None else getattr(loader, held)).__name__

    def __len__(self) -> int:
        return self.size

    def __reduce__(self) -> tuple[object, ...]:
        """Copy without what was left by a segment, which is no part of the value."""
        return Segments, (self.loader, self.size, self._length)

    def __repr__(self) -> str:
        return f"segments({self._name}, batches={self.size})"

    def to(self, device: torch.device) -> Segments[Batch]:
        """Return segments of the same batches, made on `device` where the loader can."""
        moved = on_device(self.loader, device)
        return self if moved is self.loader else Segments(moved, self.size, self._length)

    @property
    def description(self) -> Mapping[str, object]:
        """How many batches a segment has, and the loader that they are of."""
        return {"kind": "segments", "batches": self.size, "of": dict(description_of(self.loader))}

    @property
    def batch_size(self) -> int | None:
        """How many rows each batch has, where all have as many: a short one may be anywhere in a segment."""
        rows = rows_of(self.loader)
        whole = rows is not None and rows.samples is not None and rows.samples % rows.batch_size == 0
        return rows.batch_size if whole and rows is not None else None

    @property
    def samples(self) -> int | None:
        """How many rows a segment has, where that is known."""
        return None if self.batch_size is None else self.size * self.batch_size


def segments(loader: Iterable[Batch] | Loader[Batch], batches: int) -> Segments[Batch]:
    """Return a loader whose epoch e is batches k*e to k*(e+1) of the endless run through the data; k is `batches`.

    That run is the epochs of `loader` one after the other: 0, 1, 2 ..., each in an order of its own where the loader
    shuffles. A segment goes on over their ends. So "validate every 1000 steps" is `segments(loader, batches=1000)` as
    the train data. Any loader will do that a learner takes: a list of batches, a torch `DataLoader`, a loader with
    `batches(key, epoch, start)`.

    What batch a segment begins with is worked out from the loader's `len`. Where it has none, the lengths of its epochs
    are learned by running through them: a training that goes straight on reads nothing twice, but one that is resumed
    first reads all that lies behind it (a loader that cannot start in the middle of an epoch is read from that epoch's
    beginning in any case). The batches are the same.

    Raises:
        ConfigError: `batches` is not a whole number of 1 or more, or the loader can be read only once.
        DataError: the loader has no batch; or, while it is read, gave none or another number than its `len`.

    >>> from nntrain import Key
    >>> three = segments(["a", "b"], batches=3)
    >>> list(three.batches(Key(seed=0), 0, 0)), list(three.batches(Key(seed=0), 1, 0))
    (['a', 'b', 'a'], ['b', 'a', 'b'])
    """
    if not is_count(batches, 1):
        raise ConfigError(f"segments: batches is {batches!r}; expected a whole number of 1 or more.")
    if isinstance(loader, (str, bytes, Mapping)):
        raise ConfigError(
            f"segments: the loader is a {type(loader).__name__}; expected a list of batches, a torch DataLoader, or a "
            f"loader with batches(key, epoch, start)."
        )
    if not callable(getattr(loader, "batches", None)) and not isinstance(loader, Iterable):
        raise ConfigError(
            f"segments: the loader is {loader!r:.80}; expected a list of batches, a torch DataLoader, or a loader with "
            f"batches(key, epoch, start)."
        )
    inner = as_loader(loader, "segments: the loader")
    length = length_of(loader)
    if length == 0:
        raise DataError(f"segments: {type(loader).__name__} has no batch; expected at least one.")
    return Segments(inner, batches, length)


def _close(reading: _Reading) -> None:
    close = getattr(reading.batches, "close", None)
    if close is not None:
        close()
