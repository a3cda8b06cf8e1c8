"""The world: which of how many processes this is, and the process group that torchrun's environment asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist

from nntrain.errors import ConfigError


@dataclass(frozen=True)
class World:
    """Which of how many processes train together: `rank` is 0 to `size - 1`."""

    rank: int = 0
    size: int = 1

    @property
    def single(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints."""
        return self.rank == 0


SINGLE: Final = World()
_LAUNCHED: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, and whatever launches as it does, sets in the environment."""


def current_world() -> World:
    """Return the world of this process: that of torch's default process group, a single process without one."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return SINGLE


def launched_world(environment: Mapping[str, str] = os.environ) -> World:
    """Return the world that a launcher such as torchrun describes; a single process where none does.

    Raises `ConfigError` for a description that cannot be meant.
    """
    if any(not environment.get(name) for name in _LAUNCHED):
        return SINGLE
    rank, size = environment["RANK"], environment["WORLD_SIZE"]
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ConfigError(
            f"The environment says RANK={rank!r} and WORLD_SIZE={size!r}; expected whole numbers, the rank from 0 to "
            f"the size - 1, as torchrun sets them."
        )
    return World(int(rank), int(size))


def known_world() -> World:
    """Return the world of this process as far as it is known: of the process group, else as a launcher describes it.

    So it is known before the group is made, which a learner does when it is first needed.
    """
    world = current_world()
    return launched_world() if world.single else world


def join_world(device: torch.device, timeout: timedelta) -> World:
    """Return this process's world, after it has joined the process group that its launcher describes.

    A group that is there already is taken as it is. Otherwise it is made: "nccl" where `device` is CUDA, else "gloo";
    a collective that not all ranks have come to within `timeout` fails. Without a launcher the process is single.
    Raises `ConfigError` where the backend is missing or the device is none of this process's own.
    """
    if dist.is_available() and dist.is_initialized():
        return current_world()
    world = launched_world()
    if world.single:
        return world
    backend = "nccl" if device.type == "cuda" else "gloo"
    there = dist.is_available() and (dist.is_nccl_available() if backend == "nccl" else dist.is_gloo_available())
    if not there:
        raise ConfigError(
            f"Training on {world.size} processes with device {str(device)!r} needs torch.distributed with {backend}, "
            f"which this torch was built without. Install one with it, or train on "
            f"{'device=' + repr('cpu') + ', which takes gloo' if backend == 'nccl' else 'one process'}."
        )
    dist.init_process_group(backend, timeout=timeout, device_id=device if backend == "nccl" else None)
    return current_world()


def local_device() -> torch.device:
    """Return the CUDA device of this process among those of its machine, as LOCAL_RANK numbers it; without CUDA the
    CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
