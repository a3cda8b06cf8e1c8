"""What a metric remembers of a phase, as a value: a tree of tensors and numbers that nobody else can write.

The containers are dicts with strings as keys, tuples, lists, named tuples, dataclasses, attrs classes and pydantic
models. A file holds no class: a record is written as its fields, and made again by the tree that `init()` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import BaseModel
from torch import Tensor

from nntrain.values.bits import fields_of as fields_of_model
from nntrain.values.trees import fields_of, is_record

Memory = Any
"""A tree of tensors and numbers."""
_NUMBERS: Final = (bool, int, float, type(None))
_LEAVES: Final = frozenset({Tensor, *_NUMBERS})


class _Key(NamedTuple):
    """What a dict has as a key, and is no string."""

    name: object


def memory_map(tree: Memory, change: Callable[[Any], Any], same: Container[int] = ()) -> Memory:
    """Return a tree in containers of its own, each leaf as `change` returns it, but for those with ids in `same`."""
    kind = type(tree)
    if kind in _LEAVES:
        return tree if id(tree) in same else change(tree)
    if kind is dict:
        return {name: memory_map(part, change, same) for name, part in tree.items()}
    if kind is list or kind is tuple:
        return kind([part if id(part) in same else memory_map(part, change, same) for part in tree])
    fields = _fields(tree)
    if fields is None:
        return change(tree)
    return _remade(tree, {name: memory_map(part, change, same) for name, part in fields.items()})


def memory_copy(tree: Memory) -> Memory:
    """Return a tree with tensors and containers of its own."""
    return memory_map(tree, lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf)


def memory_tensors(tree: Memory) -> list[Tensor]:
    """Return the tensors of a tree."""
    kind = type(tree)
    if kind is Tensor:
        return [tree]
    if kind is list or kind is tuple:
        if set(map(type, tree)) == {Tensor}:  # as where it grows by each batch
            return list(tree)
        parts: Any = tree
    elif kind is dict:
        parts = tree.values()
    else:
        parts = () if kind in _LEAVES else (_fields(tree) or {}).values()
    return [tensor for part in parts for tensor in memory_tensors(part)]


def memory_problem(tree: Memory, template: Memory) -> str | None:
    """Return why a tree is no memory that a checkpoint can hold, in words; None where it is one.

    `template` is what `init()` returned: where it has no record, none can be made again.
    """
    for where, leaf in _named(tree, ""):
        if not isinstance(leaf, Tensor) and type(leaf) not in _NUMBERS:
            return f"{where or 'it'} is of type {type(leaf.name if isinstance(leaf, _Key) else leaf).__name__}"
    return _unlike(tree, as_made(template, as_plain(tree)), "")


def as_plain(tree: Memory) -> Memory:
    """Return a tree without classes: a record as a dict of its fields, a named tuple as a tuple."""
    kind = type(tree)
    if kind is dict:
        return {name: as_plain(part) for name, part in tree.items()}
    if kind is list or kind is tuple:
        return kind([as_plain(part) for part in tree])
    fields = _fields(tree)
    if fields is None:
        return tree
    plain = {name: as_plain(part) for name, part in fields.items()}
    return tuple(plain.values()) if isinstance(tree, tuple) else plain


def as_made(template: Memory, plain: Memory) -> Memory:
    """Return a tree without classes as one of the classes that `template` has, where the two agree."""
    if isinstance(plain, (tuple, list)):
        fields = _fields(template) if isinstance(template, tuple) else None
        if fields is not None and len(fields) == len(plain):
            pairs = zip(fields.items(), plain, strict=True)
            return _remade(template, {name: as_made(old, part) for (name, old), part in pairs})
        olds = template if isinstance(template, (tuple, list)) else ()
        return type(plain)([as_made(olds[at] if at < len(olds) else None, one) for at, one in enumerate(plain)])
    if isinstance(plain, dict):
        fields = None if isinstance(template, tuple) else _fields(template)
        olds_by_name = fields or (template if isinstance(template, dict) else {})
        parts = {name: as_made(olds_by_name.get(name), part) for name, part in plain.items()}
        return _remade(template, parts) if fields is not None and fields.keys() == parts.keys() else parts
    return plain


def _fields(tree: object) -> dict[str, Any] | None:
    """Return the fields of a record or a named tuple; None for what is neither."""
    if isinstance(tree, Tensor):
        return None
    names: tuple[str, ...] | None = getattr(tree, "_fields", None) if isinstance(tree, tuple) else None
    if isinstance(tree, tuple) and names is not None:
        return dict(zip(names, tree, strict=True))
    if isinstance(tree, BaseModel):
        return fields_of_model(tree)
    return fields_of(tree) if is_record(tree) and not isinstance(tree, type) else None


def _remade(record: Any, fields: Mapping[str, Any]) -> Any:
    """Return a record with other fields. No code of its class runs."""
    if isinstance(record, tuple):
        return tuple.__new__(type(record), list(fields.values()))
    if isinstance(record, BaseModel):
        return type(record).model_construct(record.model_fields_set, **fields)
    made = object.__new__(type(record))
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _named(tree: Memory, where: str) -> Iterator[tuple[str, Any]]:
    """Yield each leaf with where it stands."""
    if type(tree) is dict:
        yield from ((f"a key of {where or 'it'}", _Key(name)) for name in tree if type(name) is not str)
    parts: Any = tree if type(tree) is dict else None
    if type(tree) in {list, tuple}:
        parts = {str(index): part for index, part in enumerate(tree)}
    parts = _fields(tree) if parts is None else parts
    if parts is None:
        yield where, tree
        return
    for name, part in parts.items():
        yield from _named(part, f"{where}.{name}" if where else str(name))


def _unlike(tree: Memory, back: Memory, where: str) -> str | None:
    """Return where a tree has a record that would not come back from a file."""
    if type(tree) is not type(back):
        kind = type(tree).__name__
        return f"{where or 'it'} is of type {kind} where init() has none, and would not come back from a file"
    fields = _fields(tree)
    parts: Any = tree if fields is None else fields
    backs: Any = back if fields is None else _fields(back)
    if isinstance(parts, dict) and isinstance(backs, dict):
        pairs: Any = ((name, part, backs[name]) for name, part in parts.items())
    elif type(parts) in {list, tuple}:
        pairs = zip(map(str, range(len(parts))), parts, backs, strict=True)
    else:
        return None
    found = (_unlike(part, other, f"{where}.{name}" if where else name) for name, part, other in pairs)
    return next((one for one in found if one is not None), None)
