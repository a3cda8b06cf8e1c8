"""What samplers and iterables remember of what was read of them, which no state holds.

A sampler may shuffle a list of its own in place, count its epochs, or draw from a generator of its own. Its order of
epoch e is then what it gives after those of the epochs 0 to e - 1, each read under its own seed. In a training that
goes straight on, the sampler itself has come to that place. Anywhere else (resumed, gone back, a second fit) a copy of
it, made before it was first read, is brought there: so the order is a function of (key, epoch).

Of iterables that make data no copy is made. One that changes as it is read, and is read out of that order, is reported.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from io import IOBase
from itertools import islice
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from nntrain.data.epochs import attributes_of, parts_of, takes_epoch, tell_epoch
from nntrain.data.seeding import generators_of, seeded_items
from nntrain.errors import DataWarning
from nntrain.ranks.console import warn_once
from nntrain.values.bits import same_bits
from nntrain.values.key import Key
from nntrain.values.log_event import Note

Item = TypeVar("Item")
Tell = Callable[[Note], None]

LONGEST_EPOCH: Final = 1 << 16
"""How many items of a sampler without a length are read in search of its end."""

_COMPARED: Final = 1_000
_PLAIN: Final = (bool, int, float, str, bytes, type(None))
_FORGETFUL: Final = frozenset(
    {
        list,
        tuple,
        range,
        SequentialSampler,
        RandomSampler,
        SubsetRandomSampler,
        WeightedRandomSampler,
        DistributedSampler,
    }
)


def ignored(note: Note) -> None:
    """Do nothing with a note."""


class _Place:
    """Which epoch an iterable gives next, of those in order: None while one is read, or was not read to its end."""

    def __init__(self, at: tuple[Key, int] | None = None) -> None:
        self.at = at

    def read(self, items: Iterable[Item], key: Key, epoch: int, sources: list[torch.Generator]) -> Iterator[Item]:
        """Tell the iterable the epoch, and iterate over that."""
        self.at = None
        tell_epoch(items, epoch)
        return self._to_the_end(items, key, epoch, sources)

    def _to_the_end(
        self, items: Iterable[Item], key: Key, epoch: int, sources: list[torch.Generator]
    ) -> Iterator[Item]:
        yield from seeded_items(items, sources, key.fold_in(epoch))
        self.at = (key, epoch + 1)


class History:
    """What was read, in this process, of one loader. It does not hold the loader."""

    def __init__(self) -> None:
        self._place: _Place | None = None
        self._copy: tuple[_Place, Any] | None = None
        self._first: Any = None
        """The sampler as it was before it was read; None where it cannot be copied."""
        self._remembers: bool | None = None

    @staticmethod
    def of(loader: object) -> History:
        """Return the loader's history, which learners of the same loader share; a new one where it cannot be found."""
        if type(loader).__eq__ is not object.__eq__ or not hasattr(loader, "__weakref__"):
            return History()
        return _HISTORIES.setdefault(loader, History())

    def items(self, items: Iterable[Item], key: Key, epoch: int, tell: Tell) -> Iterator[Item]:
        """Iterate over an epoch of an iterable; report one that remembers, where it is not read in order."""
        place = self._place = self._place or _Place((key, 0))
        in_order = place.at == (key, epoch)
        found = place.read(items, key, epoch, generators_of(items))
        return found if in_order else _reported(found, items, epoch, tell)

    def order(
        self, loader: DataLoader[Any], sampler: Iterable[Item], key: Key, epoch: int, tell: Tell
    ) -> Iterator[Item]:
        """Iterate over the order of an epoch: indices, or lists of them."""
        if _is_forgetful(sampler):
            return seeded_items(sampler, generators_of(loader), key.fold_in(epoch))
        if self._place is None:
            self._place = _Place((key, 0))
            self._first = _copied(sampler, loader)
        if self._place.at != (key, epoch):
            if self._first is None:
                _report(f"{_called(sampler)} cannot be copied to see if it remembers epochs", epoch, tell)
            elif self._copy is not None and self._copy[0].at == (key, epoch):
                return _read_copy(*self._copy, loader, key, epoch)
            elif self._is_remembering(loader, key, epoch):
                place, copied, ended = self._brought_to(loader, key, epoch)
                if ended:
                    self._copy = place, copied
                    return _read_copy(place, copied, loader, key, epoch)
                _report(f"{_called(sampler)} remembers epochs, and one of them does not end", epoch, tell)
        return self._place.read(sampler, key, epoch, generators_of(loader))

    def _is_remembering(self, loader: DataLoader[Any], key: Key, epoch: int) -> bool:
        """Return whether an epoch's order is another after one that was read before it."""
        if self._remembers is None:
            epoch = max(epoch, 1)
            orders = []
            for before in (0, 1):
                place, copied, _ = self._brought_to(loader, key, before)
                orders.append(list(islice(_read_copy(place, copied, loader, key, epoch), _COMPARED)))
            self._remembers = not same_bits(*orders)
        return self._remembers

    def _brought_to(self, loader: DataLoader[Any], key: Key, epoch: int) -> tuple[_Place, Any, bool]:
        """Return a copy of which the epochs before were read, and whether each of them came to its end."""
        place, copied, ended = _Place((key, 0)), _copied(self._first, loader), True
        for past in range(epoch):
            indices = _read_copy(place, copied, loader, key, past)
            ended = ended and next(islice(indices, _longest(copied), None), None) is None
        return place, copied, ended


_HISTORIES: Final[WeakKeyDictionary[Any, History]] = WeakKeyDictionary()


def _read_copy(place: _Place, copied: Any, loader: DataLoader[Any], key: Key, epoch: int) -> Iterator[Any]:
    sources = generators_of(copied)
    own = loader.generator  # not copied, so that a sampler that has it too draws from the one that is seeded
    if own is not None and own is not torch.default_generator and own not in sources:
        sources.append(own)
    return place.read(copied, key, epoch, sources)


def _is_forgetful(sampler: object) -> bool:
    if type(sampler) is BatchSampler:
        return _is_forgetful(sampler.sampler)
    return type(sampler) in _FORGETFUL


def _called(sampler: object) -> str:
    inner = sampler.sampler if type(sampler) is BatchSampler else sampler
    return type(inner).__name__


def _copied(sampler: object, loader: DataLoader[Any]) -> Any:
    """Return a copy of a sampler, without one of the data; None where there is none to be made."""
    shared = [*parts_of(loader.dataset), loader.generator]
    try:
        return copy.deepcopy(sampler, {id(part): part for part in shared if part is not None})
    except Exception:  # noqa: BLE001 - whatever a part of it raises: it can't be copied
        return None


def _longest(sampler: object) -> int:
    try:
        return len(sampler)  # type: ignore[arg-type]  # what has no length raises
    except TypeError:
        return LONGEST_EPOCH


def _reported(found: Iterator[Item], items: object, epoch: int, tell: Tell) -> Iterator[Item]:
    """Yield the items; report if the iterable they come from has changed after the first of them, or the last."""
    before = _memory_of(items)
    changed = None
    for number, item in enumerate(found):
        if number == 0:
            changed = _report_change(before, items, epoch, tell)
        yield item
    if changed is None:
        _report_change(before, items, epoch, tell)


def _report_change(before: dict[str, object], items: object, epoch: int, tell: Tell) -> str | None:
    after = _memory_of(items)
    changed = next((name for name in before.keys() | after.keys() if before.get(name) != after.get(name)), None)
    if changed is not None:
        _report(f"{type(items).__name__} changes as it is read ({changed.split()[0]})", epoch, tell)
    return changed


def _memory_of(items: object) -> dict[str, object]:
    """Return what can be compared of an iterable and its parts, without those that are told the epoch."""
    found: dict[str, object] = {}
    for part in parts_of(items, within=lambda part: not takes_epoch(part)):
        own = part.items() if type(part) is dict else () if takes_epoch(part) else attributes_of(part)
        for name, value in own:
            where = f"{type(part).__name__}.{name} {id(part)}"
            if isinstance(value, _PLAIN):
                found[where] = value
            elif isinstance(value, random.Random):
                found[where] = value.getstate()
            elif isinstance(value, (list, dict, set)):
                found[where] = len(value)
            elif isinstance(value, Iterator) and not isinstance(value, IOBase):
                found[where] = object()  # nobody sees how far it was read
    return found


def _report(why: str, epoch: int, tell: Tell) -> None:
    text = (
        f"{why}; no state holds that, and epoch {epoch} may not be read as a training that goes straight on reads it. "
        "Give it set_epoch(epoch), which is called before each epoch, and let its order depend on nothing else."
    )
    warn_once(text, DataWarning, stacklevel=2)
    tell(Note("data.memory", text))
