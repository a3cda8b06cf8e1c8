"""What an object remembers outside the state: in attributes, closures, defaults and global variables."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Mapping, Set
from types import FunctionType, MethodType
from typing import Final

from pydantic import BaseModel
from torch import Tensor

from nntrain.values.bits import as_bytes
from nntrain.values.state import TrainState

_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))
_REMEMBERED: Final = (*_PLAIN, list, dict, set, deque, bytearray, Tensor)
"""Types of global variables that can be a memory, unlike modules, classes and functions."""
_MAX_DEPTH: Final = 6


def memory_of(thing: object) -> dict[str, object]:
    """Return a comparable form of each value that `thing` remembers, by where it is kept."""
    found: dict[str, object] = {}
    for name, value in attributes_of(thing).items():
        found[f"self.{name}"] = _comparable(value, 0)
        if isinstance(value, (FunctionType, MethodType)):
            found |= _of_function(value)
    if isinstance(thing, (FunctionType, MethodType)):
        found |= _of_function(thing)
    for kind in type(thing).__mro__:
        if kind.__module__.partition(".")[0] in {"builtins", "nntrain", "typing", "abc"}:
            continue
        for name, value in vars(kind).items():
            if isinstance(value, FunctionType):
                found |= _of_function(value)
            elif isinstance(value, _REMEMBERED) and not name.startswith("__"):
                found[f"{kind.__name__}.{name}"] = _comparable(value, 0)
    return found


def attributes_of(thing: object) -> dict[str, object]:
    """Return what an object has in its slots and in its `__dict__`."""
    given = [kind.__dict__.get("__slots__", ()) for kind in type(thing).__mro__]
    slots = [name for names in given for name in ([names] if isinstance(names, str) else names)]
    kept = [name for name in slots if name not in {"__dict__", "__weakref__"} and hasattr(thing, name)]
    return {**{name: getattr(thing, name) for name in kept}, **getattr(thing, "__dict__", {})}


def _of_function(function: FunctionType | MethodType) -> dict[str, object]:
    plain = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(plain, FunctionType):
        return {}
    found: dict[str, object] = {}
    for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
        if name == "__class__":
            continue
        try:
            found[f"{name}, which {plain.__name__} closes over"] = _comparable(cell.cell_contents, 0)
        except ValueError:  # the cell is still empty
            continue
    for name in plain.__code__.co_names:
        value = plain.__globals__.get(name)
        if isinstance(value, _REMEMBERED) and value is not None:
            found[f"the global {name}"] = _comparable(value, 0)
    if plain.__defaults__:
        found[f"the defaults of {plain.__name__}"] = _comparable(plain.__defaults__, 0)
    return found


def _comparable(value: object, depth: int) -> object:
    """Return a form of a value that is equal where the value is, and keeps no reference to it."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, TrainState):
        return f"a TrainState ({id(value)})"
    if isinstance(value, Tensor):
        content = as_bytes(value.detach().cpu()).numpy().tobytes() if value.numel() else b""
        return f"a tensor {tuple(value.shape)} ({hashlib.sha256(content).hexdigest()[:12]})"
    if depth == _MAX_DEPTH:
        return type(value).__name__
    if isinstance(value, BaseModel):
        return type(value).__name__, _comparable(dict(value.__dict__), depth + 1)
    if isinstance(value, Mapping):
        return [(_comparable(key, depth + 1), _comparable(one, depth + 1)) for key, one in value.items()]
    if isinstance(value, Set):
        return sorted(str(_comparable(one, depth + 1)) for one in value)
    if isinstance(value, (list, tuple, deque)):
        return [_comparable(one, depth + 1) for one in value]
    if dataclasses.is_dataclass(value) or (type(value).__module__ != "builtins" and hasattr(value, "__dict__")):
        return type(value).__name__, [(name, _comparable(one, depth + 1)) for name, one in attributes_of(value).items()]
    return repr(value)
