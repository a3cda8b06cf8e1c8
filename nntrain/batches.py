"""Batches: moving them to a device, counting their samples, and telling inputs from target.

A batch is any tree of tuples, lists, mappings and dataclasses over tensors.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from nntrain.errors import DataError

Tree = TypeVar("Tree")
Unpacked = tuple[tuple[object, ...], Mapping[str, object], object]
"""Positional inputs of the model, keyword inputs of the model, target."""

TARGET_NAMES = ("target", "targets", "label", "labels", "y")


@runtime_checkable
class _Named(Protocol):
    """A named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to each tensor of a tree; where nothing changed, the very same tree is given back."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, (tuple, list)):
        items = [mapped(item, change) for item in tree]
        if all(new is old for new, old in zip(items, tree, strict=True)):
            return tree
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, Mapping):
        values = {name: mapped(value, change) for name, value in tree.items()}
        if all(values[name] is tree[name] for name in tree):
            return tree
        if isinstance(tree, MutableMapping):
            changed_tree = copy.copy(tree)  # keeps what its class is made with, such as a defaultdict's factory
            for name, value in values.items():
                changed_tree[name] = value
            return changed_tree
        return type(tree)(values)  # type: ignore[call-arg] # mappings are made from mappings
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree) if field.init}
        changed = {name: mapped(value, change) for name, value in fields.items()}
        if all(changed[name] is fields[name] for name in fields):
            return tree
        return dataclasses.replace(tree, **changed)
    return tree


def moved(batch: Tree, device: torch.device) -> Tree:
    """Move every tensor of a batch to `device`; a batch that is there already is given back as it is.

    Tensors made under `torch.inference_mode` cannot be trained on, and are copied.
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

    moved_batch: Tree = mapped(batch, move)
    return moved_batch


def structure(tree: object, tensors: list[Tensor]) -> object:
    """Give what two batches have in common whose tensors can take each other's places; collect the tensors.

    Raises `DataError` where there is something in the tree that is no tensor, or a tensor with a gradient.
    """
    if isinstance(tree, Tensor):
        if tree.requires_grad or tree.layout != torch.strided:
            raise DataError(f"{described(tree)} has a gradient or is sparse")
        tensors.append(tree)
        return tree.shape, tree.dtype, tree.stride()
    if isinstance(tree, (tuple, list)):
        return type(tree), *[structure(item, tensors) for item in tree]
    if isinstance(tree, Mapping):
        return type(tree), *[(name, structure(item, tensors)) for name, item in tree.items()]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = ((field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree))
        return type(tree), *[(name, structure(item, tensors)) for name, item in fields]
    raise DataError(f"a {type(tree).__name__} is no tensor, and may be another one in the next batch")


def sample_count(batch: object) -> int:
    """Count the samples of a batch: the first dimension of its first tensor that has one."""
    found = _first_length(batch)
    if found is None:
        raise DataError(f"The batch ({described(batch)}) has no tensor with a batch dimension to count samples by.")
    return found


def _first_length(tree: object) -> int | None:
    if isinstance(tree, Tensor):
        shape = tree.shape
        return shape[0] if shape else None
    children: Any = ()
    if isinstance(tree, (tuple, list)):
        children = tree
    elif isinstance(tree, Mapping):
        children = tree.values()
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        children = (getattr(tree, field.name) for field in dataclasses.fields(tree))
    for child in children:
        found = _first_length(child)
        if found is not None:
            return found
    return None


def unpacked(batch: object) -> Unpacked:
    """Tell a batch's inputs from its target.

    Of a tuple or list the last is the target, and the others are the model's positional inputs. Of a mapping or
    dataclass the target is the one field named target, label or y (or their plurals), else the last; a single other
    field is given to the model by position, several by name.
    """
    if type(batch) is tuple and len(batch) == 2:
        return batch[:1], {}, batch[1]
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        if len(batch) < 2:
            raise DataError(
                f"A batch needs inputs and a target; got {described(batch)}. Give tuples (inputs, target), "
                f"or tell them apart by Learner(..., unpack=...)."
            )
        return tuple(batch[:-1]), {}, batch[-1]
    named: dict[str, Any]
    if isinstance(batch, Mapping):
        named = dict(batch)
    elif isinstance(batch, _Named):
        named = dict(batch._asdict())
    elif dataclasses.is_dataclass(batch):
        named = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    else:
        raise DataError(
            f"A batch is a tuple, list, mapping or dataclass of inputs and a target; got {described(batch)}. "
            f"For anything else pass Learner(..., unpack=...)."
        )
    targets = [name for name in named if name in TARGET_NAMES]
    if len(named) < 2 or len(targets) > 1:
        raise DataError(
            f"Of a batch with the fields {', '.join(named) or '(none)'} the target is the one named "
            f"{', '.join(TARGET_NAMES)}, or the last; here it cannot be told. Pass Learner(..., unpack=...)."
        )
    target = named.pop(targets[0] if targets else next(reversed(named)))
    if len(named) == 1:
        return tuple(named.values()), {}, target
    return (), named, target


def described(tree: object) -> str:
    """Describe a batch in words: types, shapes and dtypes."""
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')}{list(tree.shape)}"
    if isinstance(tree, (tuple, list)):
        return f"{type(tree).__name__}({', '.join(map(described, tree))})"
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{name}: {described(value)}' for name, value in tree.items())}}}"
    return type(tree).__name__
