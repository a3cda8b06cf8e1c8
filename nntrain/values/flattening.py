"""Values as trees: plain JSON beside named tensors, and back to the very same bits.

`Flattener` takes records, mappings, sequences, numbers and tensors apart; `unflattened` puts them together. What JSON
cannot say by itself stands in an object with one member that says what it is: `{"tuple": [...]}`, `{"float":
"7ff8000000000000"}` (the bits of a NaN), `{"tensor": "params/0.weight"}`. Nothing here names a class or runs code.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python
from torch import Size, Tensor

from nntrain.errors import ConfigError
from nntrain.values.bits import fields_of

_SEQUENCES: Final[Mapping[str, Callable[[Iterable[Any]], object]]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "size": lambda items: Size(tuple(items)),
}

Tree = Any
"""JSON: None, a bool, a number, a string, a list or a dict of trees."""


class Flat(ABC):
    """A value that takes itself apart, under a tag by which `unflattened` is told how to make it again."""

    __slots__ = ()

    @abstractmethod
    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:
        """Return the tag, and the parts by name."""


class Flattener:
    """Takes values apart into trees, and collects their tensors by name. A tensor that is met twice has one name."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.model: object = None
        """Of the state that is taken apart; those in its slots may be of others."""
        self._names: dict[int, str] = {}
        self._read: dict[int, tuple[weakref.ref[Any], Any]] = {}

    def know(self, handle: object, content: object) -> None:
        """Remember `content` as what a handle holds, so that it is not read again. This keeps no handle alive."""
        self._read[id(handle)] = weakref.ref(handle), content

    def known(self, handle: object) -> Any:
        """Return what a handle holds, None where that is not known."""
        found = self._read.get(id(handle))
        return found[1] if found is not None and found[0]() is handle else None

    def tree(self, value: object, path: str) -> Tree:
        """Return a value as a tree. `path` is where it stands, and begins the names of its tensors.

        Raises `ConfigError` for what cannot be put together again.
        """
        if value is None or type(value) in {bool, int, str}:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if isinstance(value, Tensor):
            return {"tensor": self._named(value, path)}
        if isinstance(value, Flat):
            tag, parts = value.flat(self)
            return {tag: {name: self.tree(part, _within(path, name)) for name, part in parts.items()}}
        if isinstance(value, BaseModel):
            return {"record": {name: self.tree(part, _within(path, name)) for name, part in fields_of(value).items()}}
        if isinstance(value, Mapping):
            return self._mapping(value, path)
        if isinstance(value, (list, tuple, deque)):
            items = [self.tree(item, _within(path, str(index))) for index, item in enumerate(value)]
            if isinstance(value, deque):
                return {"deque": [value.maxlen, *items]}
            return items if type(value) is list else {"size" if type(value) is Size else "tuple": items}
        if isinstance(value, (set, frozenset)):
            items = sorted((self.tree(item, path) for item in value), key=json.dumps)
            return {"set" if isinstance(value, set) else "frozenset": items}
        if isinstance(value, bytes):
            return {"bytes": base64.b64encode(value).decode()}
        if isinstance(value, datetime) and isinstance(value.tzinfo, ZoneInfo) and value.tzinfo.key:
            return {"zoned": [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, value.tzinfo.key]}
        return self._other(value, path)

    def _mapping(self, value: Mapping[Any, object], path: str) -> Tree:
        if all(type(name) is str for name in value):
            return {"map": {name: self.tree(part, _within(path, name)) for name, part in value.items()}}
        pairs = [[self.tree(name, path), self.tree(part, _within(path, str(name)))] for name, part in value.items()]
        return {"pairs": pairs}

    def _named(self, tensor: Tensor, path: str) -> str:
        found = self._names.get(id(tensor))
        if found is not None:
            return found
        name, number = path, 2
        while name in self.tensors:
            name, number = f"{path}~{number}", number + 1
        self.tensors[name] = tensor
        self._names[id(tensor)] = name
        return name

    def _other(self, value: object, path: str) -> Tree:
        try:
            plain: object = to_jsonable_python(value)
        except (PydanticSerializationError, ValueError) as error:
            raise ConfigError(
                f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be saved. Expected "
                f"tensors, numbers, strings, and records, mappings, lists and tuples of these."
            ) from error
        return self.tree(plain, path)


def _within(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def unflattened(tree: Tree, tensors: Mapping[str, Tensor], made: Mapping[str, Callable[[Any], object]]) -> Any:
    """Put together what a `Flattener` took apart; records come as dicts of their fields.

    `made` makes, by their tags, what took itself apart. Raises `ValueError` or `KeyError` for what is no such tree.
    """

    def whole(part: Tree) -> Any:
        if isinstance(part, list):
            return [whole(item) for item in part]
        if not isinstance(part, dict):
            return part
        ((tag, inner),) = part.items()
        match tag:
            case "tensor":
                return tensors[inner]
            case "float":
                return struct.unpack(">d", bytes.fromhex(inner))[0]
            case "tuple" | "set" | "frozenset" | "size":
                return _SEQUENCES[tag](whole(item) for item in inner)
            case "deque":
                maxlen, *items = inner
                return deque((whole(item) for item in items), maxlen)
            case "zoned":
                clock, fold, zone = inner
                return datetime.fromisoformat(clock).replace(fold=fold, tzinfo=ZoneInfo(zone))
            case "map" | "record":
                return {name: whole(item) for name, item in inner.items()}
            case "pairs":
                return {whole(name): whole(item) for name, item in inner}
            case "bytes":
                return base64.b64decode(inner, validate=True)
            case _:
                return made[tag]({name: whole(item) for name, item in inner.items()})

    return whole(tree)
