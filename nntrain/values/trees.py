"""Trees of tensors: tuples, lists, mappings and dataclasses, mapped and copied in their own shape."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


def tree_map(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to each tensor of a tree; where nothing changed, the very same tree is given back."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, (tuple, list)):
        items = [tree_map(item, change) for item in tree]
        if all(new is old for new, old in zip(items, tree, strict=True)):
            return tree
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, Mapping):
        values = {name: tree_map(value, change) for name, value in tree.items()}
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
        changed = {name: tree_map(value, change) for name, value in fields.items()}
        if all(changed[name] is fields[name] for name in fields):
            return tree
        return dataclasses.replace(tree, **changed)
    return tree


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
        return f"{str(tree.dtype).removeprefix('torch.')}{list(tree.shape)}"
    if isinstance(tree, (tuple, list)):
        return f"{type(tree).__name__}({', '.join(map(described, tree))})"
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{name}: {described(value)}' for name, value in tree.items())}}}"
    return type(tree).__name__
