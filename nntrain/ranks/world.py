"""The world: which of how many processes this is, and the process group that torchrun's environment asks for."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist

from nntrain.errors import ConfigError, RankError
from nntrain.ranks.meeting import meet


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
_SETTLE: Final = 0.1
"""Seconds that a process gives gloo's threads at its end."""


@atexit.register
def _settle() -> None:
    """Let gloo's threads release the tensors of the last collectives before the interpreter ends.

    For that they need the interpreter's lock, though the collective is done; a thread that still waits for it while
    Python before 3.14 ends is ended amid C++ that does not expect it, and the process dies by SIGABRT, after all its
    work (pytorch/pytorch#190489). What is imported later, such as a checkpoint that is being written, ends before.
    """
    if dist.is_available() and dist.is_initialized():
        time.sleep(_SETTLE)


def current_world() -> World:
    """Return the world of this process: that of torch's default process group, a single process without one."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return SINGLE


def launched_world(environment: Mapping[str, str] = os.environ) -> World:
    """Return the world that a launcher such as torchrun describes; a single process where none does.

    Raises `ConfigError` for a description that cannot be meant, or is of several processes and lacks something.
    """
    lacking = [name for name in _LAUNCHED if not environment.get(name)]
    several = environment.get("WORLD_SIZE") not in {None, "", "1"}
    if lacking and (several or (environment.get("RANK") and "WORLD_SIZE" in lacking)):
        there = ", ".join(f"{name}={environment[name]!r}" for name in _LAUNCHED if name not in lacking)
        raise ConfigError(
            f"The environment says {there}, and no {', '.join(lacking)}: it is not clear which of how many processes "
            f"this is. Start the script by torchrun, which sets all of them; or unset them to train on one process."
        )
    if lacking:
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
    Raises `ConfigError` where the backend is missing, and `RankError` where the processes do not meet.
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
    store = meet(world.rank, world.size, timeout.total_seconds())
    with _joined(world):
        dist.init_process_group(
            backend,
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=timeout,
            device_id=device if backend == "nccl" else None,
        )
    return current_world()


@contextmanager
def _joined(world: World) -> Iterator[None]:
    """Raise `RankError` where torch cannot connect the processes, which have met."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise RankError(
            f"Rank {world.rank} could not join the {world.size} processes: {said[0].rstrip('.')}. One of them has "
            f"ended, or cannot be reached: see its own output, and the network interface that is used "
            f"(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)."
        ) from error


def local_device() -> torch.device:
    """Return the CUDA device of this process among those of its machine, as LOCAL_RANK numbers it.

    Where the launcher lets each process see but one device, it is that. Raises `ConfigError` where there is none.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if not count or (count > 1 and local >= count):
        raise ConfigError(
            f"device is 'cuda', and process {local} of this machine (LOCAL_RANK) has no CUDA device: torch sees "
            f"{count} of them. Start as many processes on it as it has devices, or train on device='cpu'."
        )
    return torch.device("cuda", local if count > 1 else 0)
