"""Batches: moving them to a device, their structure, and the number of their samples.

A batch is any tree of tuples, lists, mappings and dataclasses over tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from nntrain.errors import DataError
from nntrain.values.trees import described, tree_map

Tree = TypeVar("Tree")


def to_device(batch: Tree, device: torch.device) -> Tree:
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

    moved_batch: Tree = tree_map(batch, move)
    return moved_batch


def structure(tree: object, tensors: list[Tensor]) -> object:
    """Return the structure of a batch, and add its tensors to `tensors`.

    The tensors of two batches of one structure can take each other's places.

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
    """Return the number of a batch's samples: the first dimension of its first tensor that has one."""
    found = _first_length(batch)
    if found is None:
        raise DataError(
            f"The batch ({described(batch):.300}) has no tensor with a batch dimension to count samples by. Make numpy "
            f"arrays and lists into tensors: torch.as_tensor(array), or a torch DataLoader over the samples."
        )
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
