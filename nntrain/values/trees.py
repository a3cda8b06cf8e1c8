"""Trees of tensors: tuples, lists, mappings and dataclasses, mapped and copied in their own shape."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import Tensor


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


def clone_tree(tree: Any) -> Any:
    """Copy a tree of dicts, lists and tuples down to its tensors; strides are kept."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {name: clone_tree(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(clone_tree(value) for value in tree)
    return copy.deepcopy(tree)  # of numbers and strings the very same


def described(tree: object) -> str:
    """Describe a batch in words: types, shapes and dtypes."""
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')}{list(tree.shape)}"
    if isinstance(tree, (tuple, list)):
        return f"{type(tree).__name__}({', '.join(map(described, tree))})"
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{name}: {described(value)}' for name, value in tree.items())}}}"
    return type(tree).__name__
