"""Which epoch it is, told to whatever of a loader takes it: samplers, data sets, transforms, and what wraps them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Final

import torch

MOST_PARTS: Final = 10_000
"""How many parts of a loader are looked at, the outer ones first."""

LONGEST: Final = 1_000
"""Longer lists, tuples, sets and mappings are data, and not looked into."""

_PLAIN: Final = (str, bytes, int, float, complex, type(None), type, ModuleType, FunctionType, torch.Tensor)


def tell_epoch(loader: object, epoch: int) -> None:
    """Call `set_epoch(epoch)` of every part of a loader that has one: the inner ones first, so that a wrapper decides.

    Looked at is what attributes lead to, through lists and mappings too, not what a function closes over.
    """
    for part in reversed(parts_of(loader)):
        if takes_epoch(part):
            part.set_epoch(epoch)  # type: ignore[attr-defined]  # its class has it


def takes_epoch(part: object) -> bool:
    """Return whether it has a method `set_epoch`."""
    return callable(getattr(type(part), "set_epoch", None))


def parts_of(loader: object, *, within: Callable[[object], bool] = lambda _: True) -> list[object]:
    """Return a loader, and what its attributes lead to: the outer parts first, each once.

    `within` says of a part whether its own parts are wanted.
    """
    found = [loader]
    seen = {id(loader)}
    for holder in found:  # it grows meanwhile
        if len(found) >= MOST_PARTS:
            break
        for part in _held_by(holder) if within(holder) else ():
            if id(part) not in seen and not isinstance(part, _PLAIN):
                seen.add(id(part))
                found.append(part)
    return found


def _held_by(holder: object) -> Iterable[object]:
    if isinstance(holder, (list, tuple, set, frozenset, deque)):
        return tuple(holder) if len(holder) <= LONGEST else ()
    if type(holder) is dict:
        return tuple(holder.values()) if len(holder) <= LONGEST else ()
    if isinstance(holder, MethodType):
        return (holder.__self__,)
    if isinstance(holder, partial):
        return (holder.func, *holder.args, *holder.keywords.values())
    return tuple(value for _, value in attributes_of(holder))


def attributes_of(holder: object) -> Iterator[tuple[str, object]]:
    """Yield an object's own attributes, by name, those in slots too; no property is evaluated."""
    own = getattr(holder, "__dict__", None)
    if isinstance(own, Mapping):
        yield from tuple(own.items())
    for kind in type(holder).__mro__:
        for name, slot in tuple(vars(kind).items()):
            if isinstance(slot, MemberDescriptorType):
                try:
                    yield name, slot.__get__(holder, kind)
                except AttributeError:  # it is empty
                    continue
