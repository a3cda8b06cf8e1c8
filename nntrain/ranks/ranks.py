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
from nntrain.ranks.console import tell_errors_once
from nntrain.ranks.meeting import launcher_has_store
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
_TIMED_OUT: Final = re.compile(r"timed? ?out", re.IGNORECASE)
"""What torch says where a rank is perhaps still there."""


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

    def to_first(self, value: Value) -> list[Value] | None:
        """Return on rank 0 what each rank gave, in their order, and None on the others. It is pickled on the way."""
        found: list[Any] | None = [None] * self.world.size if self.world.first else None
        with self.together("give rank 0 what each has"):
            dist.gather_object(value, found, dst=0)
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

    def greatest(self, numbers: Sequence[float]) -> list[float]:
        """Return the greatest that any rank gave, place by place; no rank has more to read where there are more."""
        found = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        with self.together("compare a few numbers"):
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return [float(one) for one in found.tolist()]

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
        total = sum(row[0] for row in self.rows([weight]))
        found_here = [float(name in gradients) for name in names]
        both = self.greatest([*found_here, *(1.0 - one for one in found_here)])
        there = [name for name, somewhere in zip(names, both, strict=False) if somewhere]
        lacking = [name for name, not_here in zip(names, both[len(names) :], strict=True) if not_here]
        size, shapes = self.world.size, self._shapes(gradients, [name for name in lacking if name in there])
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
        self, gradients: Mapping[str, Tensor], lacking: Sequence[str]
    ) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Return shapes and dtypes of what some rank has no gradient of; all ranks come here alike."""
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
        own = self.world.rank
        missing = set(range(self.world.size)) - {own}
        try:
            while missing and not failed and time.monotonic() < until:
                failed = {rank: said for rank in missing if (said := self._said("failed", rank)) is not None}
                missing -= {rank for rank in missing if self._said("lost", rank) is not None}
                time.sleep(0.05)
        except (dist.DistError, RuntimeError):  # the store is gone with the process that holds it
            return self._without_store(purpose)
        self._failures += 1
        if failed:
            who, said = min(failed.items())
            return RankError(f"Rank {who} failed, and with it rank {own}, which was to {purpose} with it: {said}", who)
        if missing:
            who = min(missing)
            names = ", ".join(map(str, sorted(missing)))
            if _TIMED_OUT.search(str(error)):
                return RankError(
                    f"Rank {names} did not come to {purpose} with rank {own} within {self.timeout:g} seconds: it "
                    f"hangs, or left the training on a way of its own. See its own output. All ranks do the same; "
                    f"where a step takes longer, let them wait longer: DataParallel(timeout=...) or "
                    f"Sharded(timeout=...).",
                    who,
                )
            return RankError(
                f"Rank {names} has ended, while rank {own} was to {purpose} with it: it was killed, or left the "
                f"training on a way of its own. See its own output.",
                who,
            )
        return RankError(f"The ranks could not {purpose} together, though all are there: {error}")

    def _without_store(self, purpose: str) -> RankError:
        """Return what it comes to that the ranks' meeting place is gone: with rank 0, or with torchrun."""
        own = self.world.rank
        if launcher_has_store():
            return RankError(
                f"The launcher has ended, with which the ranks' store is, while rank {own} was to {purpose} with the "
                f"others. See its output."
            )
        return RankError(
            f"Rank 0 has ended, with which the ranks' store is, while rank {own} was to {purpose} with it: it failed, "
            f"was killed, or left the training on a way of its own. See its own output.",
            0,
        )

    def _say(self, what: str, text: str) -> None:
        with suppress(Exception):  # the store is gone with the rank that holds it
            _store().set(self._key(what, self.world.rank), text[:4000])

    def _said(self, what: str, rank: int) -> str | None:
        key = self._key(what, rank)
        return bytes(_store().get(key)).decode(errors="replace") if _store().check([key]) else None

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
    if world.single:
        return None
    tell_errors_once()
    return Ranks(world, device, timeout)
