"""What a function holds beside its arguments: in closures, defaults, attributes, and the global variables it names."""

from __future__ import annotations

import functools
import gc
from collections import deque
from collections.abc import Iterator, Mapping, Set
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Final

from torch import Tensor, nn

_MOST: Final = 10_000
"""How many things are looked at: what holds more, such as a data set, is not searched to its end."""
_ENDS: Final = (Tensor, type, ModuleType, CodeType, str, bytes, int, float, complex, type(None))


def tensors_within(thing: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a function, or any object, holds, each with where it was found."""
    return ((where, one) for where, one in things_within(thing) if isinstance(one, Tensor))


def things_within(thing: object) -> Iterator[tuple[str, object]]:
    """Yield what a function, or any object, holds, each with where it was found, the nearest first."""
    seen: set[int] = set()
    waiting: deque[tuple[str, object]] = deque([("", thing)])
    while waiting and len(seen) < _MOST:
        where, one = waiting.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield where, one
        if not isinstance(one, _ENDS):
            waiting.extend((f"{where}.{name}" if where else name, part) for name, part in _parts(one))


def _parts(thing: object) -> Iterator[tuple[str, object]]:
    if isinstance(thing, FunctionType):
        if not (thing.__module__ or "").startswith("torch."):
            yield from _parts_of_function(thing)
    elif isinstance(thing, MethodType):
        yield from (("self", thing.__self__), (thing.__name__, thing.__func__))
    elif isinstance(thing, functools.partial):
        yield from (("func", thing.func), ("args", thing.args), ("keywords", thing.keywords))
    elif isinstance(thing, functools._lru_cache_wrapper):
        yield from (("cache", part) for part in gc.get_referents(thing))
    elif isinstance(thing, Mapping):
        yield from ((str(name), part) for name, part in thing.items())
    elif isinstance(thing, (list, tuple, deque, Set)):
        yield from ((str(index), part) for index, part in enumerate(thing))
    elif type(thing).__module__ == "functools":  # a link of a cache
        yield from (("cache", part) for part in gc.get_referents(thing))
    else:
        yield from _attributes(thing)
        called = vars(type(thing)).get("__call__")
        if isinstance(called, FunctionType):
            yield "__call__", called


def _attributes(thing: object) -> Iterator[tuple[str, object]]:
    own = dict(getattr(thing, "__dict__", {}))
    if isinstance(thing, nn.Module):  # what it holds is called as torch calls it
        for name in ("_parameters", "_buffers", "_modules"):
            yield from dict(own.pop(name, {})).items()
    yield from own.items()
    for kind in type(thing).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in [names] if isinstance(names, str) else names:
            if hasattr(thing, name) and not name.startswith("__"):
                yield name, getattr(thing, name)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # the cell is still empty
            continue
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    yield from (("defaults", part) for part in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    yield from vars(function).items()


def _names(code: CodeType) -> set[str]:
    """Return the names of variables that a function's code, and what is defined in it, asks for."""
    inner = (_names(one) for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*inner)
