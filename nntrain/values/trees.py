"""Trees of tensors: tuples, lists, mappings, dataclasses, attrs and pydantic classes, mapped, moved, copied in shape.

A container is rebuilt by copying, never by constructing: what a class does when it is made (`__post_init__`, a check, a
device that it insists on) was done once, and its other attributes go along.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar, cast

import torch
from torch import Size, Tensor
from torch.overrides import TorchFunctionMode

from nntrain.errors import DataError

Tree = TypeVar("Tree")


class Contents(NamedTuple):
    """What a container holds: its items by position or by key, and its attributes by name."""

    items: tuple[Any, ...] | list[Any]
    values: dict[Any, Any]
    attributes: dict[str, Any]

    def named(self) -> list[tuple[object, Any]]:
        """Return all that is held, each with its position, key or name."""
        return [*enumerate(self.items), *self.values.items(), *self.attributes.items()]


def contents(tree: Any) -> Contents | None:
    """Return what a container holds; None for what is none, and is a leaf of its tree."""
    kind = type(tree)
    if kind is tuple or kind is list:
        return Contents(tree, {}, {})
    if kind is dict:
        return Contents((), tree, {})
    if isinstance(tree, Size):  # of numbers, and made by torch alone
        return None
    if isinstance(tree, (tuple, list)):
        return Contents(list(_base_of(tree).__iter__(tree)), {}, _attributes(tree))
    if isinstance(tree, dict):
        return Contents((), dict(_base_of(tree).items(tree)), _attributes(tree))
    if isinstance(tree, MappingProxyType):
        return Contents((), dict(tree), {})
    # Any other mapping keeps its items in its attributes.
    keeps_attributes = isinstance(tree, Mapping) or is_record(tree) or hasattr(kind, "__pydantic_fields__")
    return Contents((), {}, _attributes(tree)) if keeps_attributes else None


def tree_map(tree: Any, change: Callable[[Tensor], Tensor], whole: Callable[[Any], Any] | None = None) -> Any:
    """Apply `change` to each tensor of a tree; where nothing changed, the very same tree is given back.

    `whole`, if given, is asked first about each thing that is neither a tensor nor a plain tuple, list or dict: what it
    returns, if that is another thing, is taken instead.
    """
    if isinstance(tree, Tensor):
        return change(tree)
    kind = type(tree)
    if kind is tuple or kind is list:
        items = [tree_map(item, change, whole) for item in tree]
        if all(new is old for new, old in zip(items, tree, strict=True)):
            return tree
        return items if kind is list else tuple(items)
    if kind is dict:
        values = {name: tree_map(value, change, whole) for name, value in tree.items()}
        return tree if all(values[name] is tree[name] for name in tree) else values
    if whole is not None:
        replaced = whole(tree)
        if replaced is not tree:
            return replaced
    held = contents(tree)
    if held is None:
        return tree
    once = _remembering(change)  # what is an item and an attribute, too, stays one tensor
    changed = Contents(*(tree_map(part, once, whole) for part in held))
    return tree if all(new is old for new, old in zip(changed, held, strict=True)) else _rebuilt(tree, changed)


def to_device(batch: Tree, device: torch.device) -> Tree:
    """Move every tensor of a batch to `device`; a batch that is there already is given back as it is.

    What has a method `to` of its own, as the batches of torch_geometric and the tokenizers of transformers, is moved by
    it: a copy of it, since many change themselves. Tensors made under `torch.inference_mode` cannot be trained on, and
    are copied.
    """
    if isinstance(batch, tuple):
        for item in batch:
            if not isinstance(item, Tensor) or item.device != device or item.is_inference():
                break
        else:
            return batch

    def move(tensor: Tensor) -> Tensor:
        if tensor.is_inference():
            tensor = tensor.clone()
        return tensor if tensor.device == device else tensor.to(device, non_blocking=True)

    def move_by_itself(thing: Any) -> Any:
        return copy.copy(thing).to(device) if callable(getattr(type(thing), "to", None)) else thing

    moved_batch: Tree = tree_map(batch, move, move_by_itself)
    return moved_batch


def _remembering(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    known: dict[int, tuple[Tensor, Tensor]] = {}

    def once(tensor: Tensor) -> Tensor:
        found = known.get(id(tensor))
        if found is None:
            found = known[id(tensor)] = tensor, change(tensor)
        return found[1]

    return once


def _rebuilt(tree: Any, held: Contents) -> Any:
    """Return a copy of a container that holds something else. No code of its class runs."""
    kind: Any = type(tree)
    base: Any = _base_of(tree)
    if isinstance(tree, MappingProxyType):
        return MappingProxyType(held.values)
    if hasattr(kind, "n_sequence_fields"):  # of C, like what torch.max returns: it cannot be made otherwise
        return kind(held.items)
    copied: Any = tuple.__new__(kind, held.items) if isinstance(tree, tuple) else base.__new__(kind)
    if isinstance(tree, list):
        list.extend(copied, held.items)
    if isinstance(tree, defaultdict):
        defaultdict.__init__(copied, tree.default_factory)
    for name, value in held.values.items():
        base.__setitem__(copied, name, value)
    for name, value in held.attributes.items():
        object.__setattr__(copied, name, value)
    return copied


_BASES: Final[tuple[Any, ...]] = (tuple, list, OrderedDict, defaultdict, dict, MappingProxyType, object)


def _base_of(tree: Any) -> Any:
    """Return the builtin class that a container's own class is made on."""
    return next(base for base in _BASES if isinstance(tree, base))


def _attributes(tree: object) -> dict[str, Any]:
    """Return what an object has in its `__dict__` and in its slots, whatever its class says of copies of it."""
    state: Any = object.__getstate__(tree)
    named, slots = state if isinstance(state, tuple) else (state, None)
    return {**(named or {}), **(slots or {})}


def is_record(tree: object) -> bool:
    """Return whether a thing is an instance of a dataclass or of an attrs class."""
    return hasattr(type(tree), "__dataclass_fields__") or hasattr(type(tree), "__attrs_attrs__")


def fields_of(record: object) -> dict[str, Any]:
    """Return the fields, by name, of an instance of a dataclass or of an attrs class."""
    kind: Any = type(record)
    names = getattr(kind, "__attrs_attrs__", None) or dataclasses.fields(kind)
    return {field.name: getattr(record, field.name) for field in names}


def tensors_of(tree: object) -> Iterator[Tensor]:
    """Yield the tensors of a tree."""
    if isinstance(tree, Tensor):
        yield tree
        return
    held = contents(tree)
    for _, part in held.named() if held is not None else ():
        yield from tensors_of(part)


def first_length(tree: object) -> int | None:
    """Return the first dimension of a tree's first tensor that has one, None where there is none."""
    return next((tensor.size(0) for tensor in tensors_of(tree) if tensor.ndim), None)


def rows_between(tree: Any, first: int, last: int) -> Any:
    """Return a batch's rows from `first` up to `last`, in containers of the same classes; tensors are views.

    The batch has as many rows as its first tensor or array. Of each tensor and array the rows are taken, and of each
    tuple or list of as many items that are no tensors: names, or a mapping for each sample. What has no rows, such as a
    tensor without a dimension or an option, stays as it is.

    Raises `DataError` for a batch without rows, and for a part with another number of them, or that cannot be cut. The
    message names the part.
    """
    total = row_count(tree)
    if not total:
        raise DataError(f"{described(tree):.200} has no rows to cut it into")
    return _rows_between(tree, first, last, total, "")


def row_count(tree: object) -> int:
    """Return how many rows a batch has: the first dimension of its first tensor or array that has one, else 0."""
    return next((int(leaf.shape[0]) for leaf in _arrays_of(tree)), 0)


def _is_array(leaf: Any) -> bool:
    """Return whether a leaf is a tensor or an array, of numpy's or anybody's."""
    return isinstance(leaf, Tensor) or (isinstance(getattr(leaf, "shape", None), tuple) and hasattr(leaf, "__array__"))


def _arrays_of(tree: object) -> Iterator[Any]:
    """Yield the tensors and arrays of a tree that have rows."""
    if _is_array(tree):
        if cast(Tensor, tree).shape:
            yield tree
        return
    held = contents(tree)
    for _, part in held.named() if held is not None else ():
        yield from _arrays_of(part)


def _rows_between(tree: Any, first: int, last: int, total: int, where: str) -> Any:
    def within(part: Any, place: str) -> Any:
        return _rows_between(part, first, last, total, where + place)

    name = where.lstrip(".") or "the batch"
    if _is_array(tree):
        if not tree.shape:
            return tree
        if tree.shape[0] != total:
            raise DataError(f"{name} has {tree.shape[0]} rows, and the first tensor {total}")
        try:
            return tree[first:last]
        except RuntimeError as error:  # of a layout that has no slices
            raise DataError(f"{name} is {described(tree)}, {tree.layout}, whose rows cannot be cut") from error
    held = contents(tree)
    if held is None:
        if callable(getattr(type(tree), "to", None)) or any(map(_is_array, getattr(tree, "__dict__", {}).values())):
            raise DataError(f"{name} is a {type(tree).__name__}, which has tensors of its own that cannot be cut")
        return tree
    if isinstance(tree, (list, tuple)) and len(held.items) == total and all(map(_is_of_a_sample, held.items)):
        items = held.items[first:last]
        return type(tree)(items) if type(tree) in {list, tuple} else _rebuilt(tree, held._replace(items=items))
    items = [within(part, f"[{at}]") for at, part in enumerate(held.items)]
    values = {key: within(part, f"[{key!r}]") for key, part in held.values.items()}
    if type(tree) in {list, tuple, dict}:
        return values if type(tree) is dict else type(tree)(items)
    return _rebuilt(
        tree, Contents(items, values, {key: within(part, f".{key}") for key, part in held.attributes.items()})
    )


def _is_of_a_sample(item: object) -> bool:
    """Return whether an item of a list that has as many as a batch has rows is what belongs to one of them."""
    return isinstance(item, Mapping) or next(_arrays_of(item), None) is None


def joined_rows(trees: Sequence[Any], rows: Sequence[int], mean: Callable[[Sequence[Tensor]], Tensor]) -> Any:
    """Return the tree of which `trees` are the parts, each of as many `rows`: what `rows_between` took apart.

    Tensors are joined along the first dimension that has the rows; those without a dimension are as `mean` makes them.
    Tuples and lists of as many items that are no tensors are joined, too. Raises `DataError`, which names the part, for
    what cannot be joined.
    """
    return _joined(list(trees), rows, mean, "")


def _joined(trees: list[Any], rows: Sequence[int], mean: Callable[[Sequence[Tensor]], Tensor], where: str) -> Any:
    first, name = trees[0], where.lstrip(".") or "the output"
    kind = type(first)
    if any(type(one) is not kind for one in trees):
        raise DataError(f"{name} is not of the same class in all parts of the batch: {kind.__name__} in the first")
    if isinstance(first, Tensor):
        if not first.ndim:
            return mean(trees)
        of_rows = [one for one in range(first.ndim) if all(one < tree.ndim for tree in trees)]
        of_rows = [one for one in of_rows if [tree.shape[one] for tree in trees] == list(rows)]
        try:
            return torch.cat(trees, of_rows[0])
        except (IndexError, RuntimeError) as error:
            shapes = ", ".join(map(described, trees[:2]))
            raise DataError(
                f"{name} cannot be joined of parts of {rows[0]}, {rows[1]} ... rows: {shapes} ..."
            ) from error
    held = [contents(tree) for tree in trees]
    if (whole := held[0]) is None:
        return trees[-1]
    parts = [one for one in held if one is not None]
    lists = isinstance(first, (list, tuple))
    if lists and [len(one.items) for one in parts] == list(rows) and all(map(_is_of_a_sample, whole.items)):
        items = [item for one in parts for item in one.items]
        return kind(items) if kind in {list, tuple} else _rebuilt(first, whole._replace(items=items))
    if any([key for key, _ in one.named()] != [key for key, _ in whole.named()] for one in parts):
        raise DataError(f"{name} has not the same parts throughout the batch: {described(first):.200} in the first")

    def joined(found: list[Any], place: str) -> Any:
        return _joined(found, rows, mean, where + place)

    items = [joined([one.items[at] for one in parts], f"[{at}]") for at in range(len(whole.items))]
    values = {key: joined([one.values[key] for one in parts], f"[{key!r}]") for key in whole.values}
    if kind in {list, tuple, dict}:
        return values if kind is dict else kind(items)
    named = {key: joined([one.attributes[key] for one in parts], f".{key}") for key in whole.attributes}
    return _rebuilt(first, Contents(items, values, named))


def detached(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return what a model gave with each tensor as `change` returns it; `change` detaches it from the graph.

    What is no plain tuple, list or dict is copied, never constructed: an object of any class (a distribution, a
    dataclass) is of the same class, and has no tensor in common with the one given.
    """
    if isinstance(tree, Tensor):
        return change(tree)
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([detached(item, change) for item in tree])
    if kind is dict:
        return {name: detached(item, change) for name, item in tree.items()}
    if tree is None or kind in {bool, int, float, str}:
        return tree
    held = contents(tree)
    if held is not None:
        once = _remembering(change)
        return _rebuilt(tree, Contents(*(detached(part, once) for part in held)))
    with _CopyingTensors(change):
        return copy.deepcopy(tree)


class _CopyingTensors(TorchFunctionMode):
    """Makes `copy.deepcopy` take each tensor as `change` returns it. torch itself copies none amid a graph."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._change = change

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = self._change(tensor)
        return memo[id(tensor)]


def clone_tree(tree: Any) -> Any:
    """Copy a tree down to its tensors; each part is of the class that it was, and strides are kept."""
    return detached(tree, _clone)


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def described(tree: object) -> str:
    """Describe a batch in words: types, shapes and dtypes."""
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')}{'[nested]' if tree.is_nested else list(tree.shape)}"
    if isinstance(tree, (tuple, list)):
        return f"{type(tree).__name__}({', '.join(map(described, tree))})"
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{name}: {described(value)}' for name, value in tree.items())}}}"
    return type(tree).__name__
