"""`Ranks`: the collectives of one world. All ranks call the same ones in the same order, or none does."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nntrain.errors import RankError
from nntrain.ranks.world import World, join_world

Value = TypeVar("Value")
_BUCKET: Final = 25 << 20
"""Bytes of gradients that are summed at once."""
_GOLDEN: Final = 0x9E3779B97F4A7C15
_BITS: Final = (1 << 63) - 1
_ROLL_CALL: Final = 3.0
"""Seconds that ranks wait, after a collective has failed, for those that are still there to say so."""
_LOST: Final = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|timed out|broken pipe|c10d|process ?group|socket",
    re.IGNORECASE,
)
"""What torch says where a rank did not come to a collective."""


class Ranks:
    """The processes that train together, seen from one of them.

    Args:
        world: which of how many this is.
        device: where the training is: collectives of "nccl" are over tensors there, those of "gloo" over the CPU's.
        timeout: the seconds that one waits for another.
    """

    def __init__(self, world: World, device: torch.device, timeout: float) -> None:
        self.world = world
        self.timeout = timeout
        self.device: torch.device = device if dist.get_backend() == "nccl" else torch.device("cpu")
        self._failures = 0

    # -- collectives ----------------------------------------------------------------------------------------------

    def gathered(self, value: Value) -> list[Value]:
        """Return what each rank gave, in the order of the ranks. It is pickled on the way."""
        found: list[Any] = [None] * self.world.size
        with self.together("gather what each rank has"):
            dist.all_gather_object(found, value)
        return found

    def from_rank(self, rank: int, value: Value) -> Value:
        """Return on all ranks what `rank` gave. It is pickled on the way."""
        cell: list[Any] = [value]
        with self.together(f"take what rank {rank} has"):
            dist.broadcast_object_list(cell, src=rank, device=self.device)
        return cell[0]  # type: ignore[no-any-return] # what was given there

    def rows(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return the few numbers (float64) that each rank gave, in the order of the ranks: as cheap as it gets."""
        mine = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        found = torch.empty(self.world.size * len(numbers), dtype=torch.float64, device=self.device)
        with self.together("gather a few numbers"):
            dist.all_gather_into_tensor(found, mine)
        rows: list[list[float]] = found.view(self.world.size, len(numbers)).tolist()
        return rows

    def copied_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Make tensors what they are on rank 0, in place."""
        with self.together("take the tensors of rank 0"), torch.no_grad():
            for kind in dict.fromkeys((one.dtype, one.device) for one in tensors):
                of_kind = [one.detach() for one in tensors if (one.dtype, one.device) == kind]
                dist._broadcast_coalesced(_group(), of_kind, _BUCKET, 0)  # type: ignore[attr-defined] # torch's stubs lack it

    def mean(self, gradients: Mapping[str, Tensor], weight: float, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the mean over the ranks of gradients by name, each rank's counting by its `weight`.

        `names` are all that there may be: what no rank has a gradient of is left out; where only some have one, the
        others' is 0.
        """
        rows = self.rows([weight, *(float(name in gradients) for name in names)])
        total = sum(row[0] for row in rows)
        there = [name for at, name in enumerate(names, 1) if any(row[at] for row in rows)]
        size, shapes = self.world.size, self._shapes(gradients, there, rows, names)
        share = weight * size / total if total else 1.0
        found = {
            name: gradients[name] if name in gradients else torch.zeros(shapes[name][0], dtype=shapes[name][1])
            for name in there
        }
        flat = [one.to(self.device) for one in found.values()]
        if share != 1.0:
            flat = [one * share for one in flat]
        with self.together("sum gradients"):
            summed = self._summed([one * (1.0 / size) for one in flat])
        return {name: one.to(found[name].device) for name, one in zip(there, summed, strict=True)}

    def _shapes(
        self, gradients: Mapping[str, Tensor], there: Sequence[str], rows: list[list[float]], names: Sequence[str]
    ) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Return shapes and dtypes of what some rank has no gradient of; all ranks come here alike."""
        lacking = [name for name in there if not all(row[1 + names.index(name)] for row in rows)]
        if not lacking:
            return {}
        told = self.gathered({name: (one.shape, one.dtype) for name, one in gradients.items() if name in lacking})
        return {name: known for of_rank in told for name, known in of_rank.items()}

    @staticmethod
    def _summed(tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sum each tensor over the ranks, many at a time."""
        buckets: list[list[Tensor]] = []
        filled = _BUCKET
        for one in tensors:
            if filled + one.nbytes > _BUCKET or buckets[-1][0].dtype != one.dtype:
                buckets.append([])
                filled = 0
            buckets[-1].append(one)
            filled += one.nbytes
        flat = [torch.cat([one.reshape(-1) for one in bucket]) for bucket in buckets]
        for work in [dist.all_reduce(one, async_op=True) for one in flat]:
            if work is not None:
                work.wait()
        return [
            part.view(one.shape)
            for bucket, whole in zip(buckets, flat, strict=True)
            for one, part in zip(bucket, torch.split(whole, [one.numel() for one in bucket]), strict=True)
        ]

    def own_noise(self, bits: int) -> int:
        """Return what this rank's part of a batch draws from: rank 0 as one process does, the others each their own."""
        return (bits + self.world.rank * _GOLDEN) & _BITS

    # -- failures -------------------------------------------------------------------------------------------------

    @contextmanager
    def together(self, purpose: str) -> Iterator[None]:
        """Raise `RankError` where a collective of the block fails: it says which rank failed, hung or is gone."""
        try:
            yield
        except RuntimeError as error:
            if not is_lost(error):
                raise
            raise self.explained(error, purpose) from error

    def failed(self, error: BaseException) -> RankError | None:
        """Tell the other ranks of an error of this one; return what to raise in its place, if it is but theirs."""
        if isinstance(error, RankError):
            return None
        if isinstance(error, RuntimeError) and is_lost(error):
            return self.explained(error, "go on")
        self._say("failed", f"{type(error).__name__}: {error}")
        return None

    def explained(self, error: BaseException, purpose: str) -> RankError:
        """Return what a failed collective comes to: which rank failed, and with what, or did not answer."""
        self._say("lost", str(error))
        until = time.monotonic() + _ROLL_CALL
        failed: dict[int, str] = {}
        missing = set(range(self.world.size)) - {self.world.rank}
        while missing and not failed and time.monotonic() < until:
            failed = {rank: said for rank in missing if (said := self._said("failed", rank)) is not None}
            missing -= {rank for rank in missing if self._said("lost", rank) is not None}
            time.sleep(0.05)
        self._failures += 1
        rank = self.world.rank
        if failed:
            who, said = min(failed.items())
            return RankError(f"Rank {who} failed, and with it rank {rank}, which was to {purpose} with it: {said}", who)
        if missing:
            who = min(missing)
            names = ", ".join(map(str, sorted(missing)))
            return RankError(
                f"Rank {names} did not come to {purpose} with rank {rank} within {self.timeout:g} seconds, or has "
                f"ended: it hangs, was killed, or left the training on a way of its own. See its own output. All ranks "
                f"do the same; where a step takes longer, let them wait longer: DataParallel(timeout=...).",
                who,
            )
        return RankError(f"The ranks could not {purpose} together, though all are there: {error}")

    def _say(self, what: str, text: str) -> None:
        with suppress(Exception):  # the store is gone with the rank that holds it
            _store().set(self._key(what, self.world.rank), text[:4000])

    def _said(self, what: str, rank: int) -> str | None:
        with suppress(Exception):
            key = self._key(what, rank)
            if _store().check([key]):
                return bytes(_store().get(key)).decode(errors="replace")
        return None

    def _key(self, what: str, rank: int) -> str:
        return f"nntrain/{self._failures}/{what}/{rank}"


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that another rank did not come to a collective."""
    return isinstance(error, dist.DistError) or bool(_LOST.search(str(error)))


def _group() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def ranks_for(device: torch.device, timeout: float) -> Ranks | None:
    """Return the ranks that train together, after joining their process group; None for a process by itself."""
    world = join_world(device, timedelta(seconds=timeout))
    return None if world.single else Ranks(world, device, timeout)
