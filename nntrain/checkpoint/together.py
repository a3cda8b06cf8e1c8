"""Saving on all ranks at once: rank 0 decides and writes for all, and what it comes to is told to every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from nntrain.checkpoint.content import Flattened
from nntrain.ranks.world import current_world
from nntrain.values.shards import whole

Result = TypeVar("Result")


def on_first(run: Callable[[], Result], group: Any = None) -> Result:
    """Return on all ranks what `run` returned on rank 0, or raise what it raised there (collective)."""
    world = current_world()
    if world.single:
        return run()
    import torch.distributed as dist

    told: list[Any] = [None]
    if world.first:
        try:
            told = [(True, run())]
        except Exception as error:  # noqa: BLE001 - each rank raises it
            told = [(False, error)]
    dist.broadcast_object_list(told, src=0, group=group)
    whole_run, found = told[0]
    if not whole_run:
        raise found
    return cast(Result, found)


def on_each(run: Callable[[], Result], group: Any = None) -> Result:
    """Return what `run` returned on this rank, or raise on all ranks what it raised on the first it failed on.

    It is collective, so that none goes on to wait for one that has failed.
    """
    world = current_world()
    if world.single:
        return run()
    import torch.distributed as dist

    found: Any = None
    failed: Exception | None = None
    try:
        found = run()
    except Exception as error:  # noqa: BLE001 - each rank raises it
        failed = error
    of_ranks: list[Exception | None] = [None] * world.size
    dist.all_gather_object(of_ranks, failed, group=group)
    for one in of_ranks:
        if one is not None:
            raise one
    return cast(Result, found)


def gathered(content: Flattened) -> Flattened:
    """Return a flattened state whose tensors are whole on rank 0, in memory of their own; the others have none.

    All ranks call it (collective), and hold one whole tensor at a time. Those that were sharded are on rank 0's CPU.
    """
    first = current_world().first
    found: dict[str, Tensor] = {}
    for name, tensor in content.tensors.items():
        of_whole = whole(tensor)
        if first:
            found[name] = of_whole.detach().clone() if of_whole is tensor else of_whole.cpu()
    return Flattened(content.tree, found)


def own_group() -> Any:
    """Return a group of all ranks by themselves, over which a thread may talk while the training does (collective).

    One waits there for another as long as in the training.
    """
    import torch.distributed as dist

    of_training = dist.distributed_c10d._get_default_group()
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    return dist.new_group(backend="gloo", timeout=of_training._get_backend(device).options._timeout)
