"""Sharded tensors: of what is spread over the ranks of a world, each holds its own part.

They are torch's `DTensor`s: shape and dtype are those of the whole. What `collective` is said of here must be called by
all ranks at the same place, or the others wait. Any other tensor is whole as it is, and costs a look at its class.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_PLAIN = frozenset({Tensor, nn.Parameter})


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Return whether a thing is a tensor of which each rank holds its own part."""
    if type(tensor) in _PLAIN:
        return False
    known = sys.modules.get("torch.distributed.tensor")  # it takes seconds to import: where it is not, there is none
    return known is not None and isinstance(tensor, known.DTensor)


def any_sharded(tensors: Iterable[object]) -> bool:
    """Return whether one of many is sharded."""
    return any(map(is_sharded, tensors))


def own_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, which is the memory itself; any other tensor as it is."""
    return tensor._local_tensor if is_sharded(tensor) else tensor


def own_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return this rank's part of each."""
    return [one if type(one) in _PLAIN else own_part(one) for one in tensors]


def version_of(tensor: Tensor) -> int:
    """Return the count of writes to a tensor, through any view of it and, if it is sharded, to this rank's part."""
    return tensor._version + tensor._local_tensor._version if is_sharded(tensor) else tensor._version


def whole(tensor: Tensor) -> Tensor:
    """Return all of a sharded tensor, in memory of its own, on every rank (collective); any other as it is."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.full_tensor()


def part_like(part: Tensor, like: DTensor) -> Tensor:
    """Return the sharded tensor of which `part` is this rank's, laid out as another; it is in the part's memory."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def sharded_like(tensor: Tensor, like: DTensor, *, of_first: bool = False) -> Tensor:
    """Return a whole tensor sharded as another is, in memory of its own.

    Each rank takes its part of what it has itself; with `of_first` of what rank 0 has (collective).
    """
    from torch.distributed.tensor import distribute_tensor

    found = tensor.detach().to(own_part(like).device)
    return distribute_tensor(found, like.device_mesh, like.placements, src_data_rank=0 if of_first else None).clone()


def laid_out_as(tensor: Tensor, like: Tensor | None) -> Tensor:
    """Return a tensor sharded as `like` is, where that is of its shape; whole where `like` is (collective).

    What is laid out so already is given back as it is.
    """
    if is_sharded(tensor):
        if not is_sharded(like):
            return whole(tensor)
        same = like.device_mesh == tensor.device_mesh and like.placements == tensor.placements
        return tensor if same or like.shape != tensor.shape else sharded_like(whole(tensor), like)
    return sharded_like(tensor, like) if is_sharded(like) and like.shape == tensor.shape else tensor


def over_parts(values: Tensor, like: DTensor, operation: Literal["sum", "max"]) -> Tensor:
    """Return what each rank made of its part of tensors laid out as `like`, summed or the greatest (collective)."""
    import torch.distributed as dist

    found = values.clone()
    for dimension, placement in enumerate(like.placements):
        if placement.is_shard():
            group: Any = like.device_mesh.get_group(dimension)
            dist.all_reduce(found, dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX, group=group)
    return found


def on_all_ranks(here: bool, tensors: Iterable[Tensor]) -> bool:
    """Return whether something holds on all ranks (collective if one of the tensors that it is about is sharded)."""
    sharded = next((one for one in tensors if is_sharded(one)), None)
    if sharded is None:
        return here
    import torch.distributed as dist

    flag = torch.tensor(int(here), device=own_part(sharded).device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)


def norms(tensors: list[Tensor]) -> list[Tensor]:
    """Return the 2-norm of each tensor; of sharded ones that of the whole, with one sum for all (collective)."""
    found: list[Tensor] = list(torch._foreach_norm(own_parts(tensors)))  # pyright: ignore[reportPrivateImportUsage] # torch's fused one
    alike: dict[object, list[int]] = {}
    for index, one in enumerate(tensors):
        if is_sharded(one):
            alike.setdefault((one.device_mesh, one.placements, one.dtype), []).append(index)
    for indices in alike.values():
        like: Any = tensors[indices[0]]
        squares = over_parts(torch.stack([found[index] for index in indices]).square(), like, "sum")
        for index, norm in zip(indices, squares.sqrt(), strict=True):
            found[index] = norm
    return found
