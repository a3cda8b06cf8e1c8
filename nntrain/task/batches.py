"""Batches: their structure, and the samples in them.

A batch is any tree of tuples, lists, mappings, dataclasses and attrs classes over tensors, or anything that `unpack`
makes one of.
"""

from __future__ import annotations

import copy
from typing import Final, TypeVar

import torch
from torch import Tensor

from nntrain.errors import DataError
from nntrain.values.log_event import Note
from nntrain.values.trees import contents, described, first_length, tensors_of

Tree = TypeVar("Tree")


def to_be_changed(batch: Tree) -> Tree:
    """Return a dict or list as a copy, of which something may be taken (`batch.pop("labels")`): the loader may give the
    batch again. Anything else is given back."""
    return copy.copy(batch) if type(batch) is dict or type(batch) is list else batch


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
    held = contents(tree)
    if held is None:
        raise DataError(f"a {type(tree).__name__} is no tensor, and may be another one in the next batch")
    return type(tree), *[(name, structure(part, tensors)) for name, part in held.named()]


WEIGH: Final = "Learner(..., weigh=lambda batch: ...)"
"""Where it is said how much a batch weighs, unless a task of the user's own says it."""


def samples_of(target: object, batch: object, say: str = WEIGH) -> int:
    """Return how many samples a batch has: the first dimension of its target.

    Where that has none, it is that of the batch's first tensor. Raises `DataError` where there is none, or it is 0;
    `say` is how to say it otherwise.
    """
    samples = first_length(target)
    if samples is None:
        samples = sample_count(batch, say)
    if samples == 0:
        raise DataError(f"The batch ({described(batch)}) has no samples.")
    return samples


def sample_count(batch: object, say: str = WEIGH) -> int:
    """Return the first dimension of a batch's first tensor that has one. Raises `DataError` where there is none."""
    found = first_length(batch)
    if found is None:
        raise DataError(
            f"The batch ({described(batch):.300}) has no tensor with a batch dimension to count samples by. Make numpy "
            f"arrays and lists into tensors (torch.as_tensor(array), or a torch DataLoader over the samples), or say "
            f"how much it weighs in the means: {say}."
        )
    return found


def odd_batch(counted: object, weight: object, say: str = WEIGH) -> Note | None:
    """Return what to warn of where the tensors of a batch disagree about their first dimension."""
    if len({tensor.size(0) for tensor in tensors_of(counted) if tensor.ndim}) < 2:
        return None
    return Note(
        "batch.samples",
        f"The tensors of a batch disagree about their first dimension: {described(counted)}. It counts as {weight} "
        f"samples in the means of the loss and the metrics. Say how many they are, or how much it weighs otherwise: "
        f"{say}.",
    )
