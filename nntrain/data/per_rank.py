"""`per_rank`: a loader that gives each rank batches of its own, as one over a shard of the data does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

import torch

from nntrain.data.dividing import Part
from nntrain.data.loaders import Loader, as_loader, description_of, on_device
from nntrain.errors import DataError
from nntrain.ranks.world import World, current_world
from nntrain.values.key import Key
from nntrain.values.trees import described, first_length, rows_between

Batch = TypeVar("Batch")
Told = Callable[[], list[int]]
Tell = Callable[[int], Told]
"""Tells the other ranks a number, and returns what gives those of all ranks, in their order."""

_NONE: Final = object()


class PerRank(Generic[Batch]):
    """What `per_rank` returns."""

    def __init__(self, loader: Loader[Batch], tell: Tell) -> None:
        self.loader = loader
        self._tell = tell

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Iterate over the batches of this rank alone, from number `start` on."""
        return self.loader.batches(_own_key(key, current_world()), epoch, start)

    def parts(self, key: Key, epoch: int, start: int, world: World) -> Iterator[Part[Batch]]:
        """Yield this rank's batches as parts of those that all ranks have together, until no rank has more.

        How many rows the others have is asked while the batch before is trained on. Raises `DataError` on all ranks
        where one has no batch at all.
        """
        key = _own_key(key, world)
        batches: Any = iter(self.loader.batches(key, epoch, start))
        following = next(batches, _NONE)
        spare = following if following is not _NONE else next(iter(self.loader.batches(key, epoch, 0)), _NONE)
        told = self._tell(-1 if spare is _NONE else _rows(following))
        try:
            while any(rows := told()):
                if min(rows) < 0:
                    raise DataError(
                        f"per_rank: rank {rows.index(min(rows))} has no batch in epoch {epoch}, of {world.size} ranks; "
                        f"expected one at least. Give each a part of the data: there may be fewer shards than ranks."
                    )
                own = following
                if own is not _NONE:
                    spare = own
                    following = next(batches, _NONE)
                told = self._tell(_rows(following))
                batch: Any = spare if own is not _NONE else rows_between(spare, 0, 1)
                yield Part(batch, rows[world.rank], sum(rows))
        finally:
            told()  # nothing is left under way
            if hasattr(batches, "close"):
                batches.close()

    def to(self, device: torch.device) -> PerRank[Batch]:
        """Return a loader of the same batches, made on `device` where the loader can."""
        return PerRank(on_device(self.loader, device), self._tell)

    @property
    def description(self) -> Mapping[str, object]:
        """The kind, and the loader of this rank."""
        return {"kind": "per rank", "of": dict(description_of(self.loader))}

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over epoch 0 of `Key(seed=0)`, to look at."""
        return self.batches(Key(seed=0), 0, 0)

    def __repr__(self) -> str:
        return f"per_rank({type(self.loader).__name__})"


def per_rank(loader: Iterable[Batch] | Loader[Batch]) -> PerRank[Batch]:
    """Return a loader whose batches are this rank's alone: no other rank has their samples, and none is divided.

    For data that each rank reads its own part of: a `DataLoader` over an `IterableDataset` from
    `datasets.distributed.split_dataset_by_node(dataset, rank, size)`, or over the shards of this rank. Batch k of the
    training is then what the k-th batches of all ranks are together; so, other than of any other loader, it is
    another for another number of ranks. Where a rank has fewer batches than others, it goes on with parts of no rows
    until all have ended: each sample counts once. A single process trains on the loader as it is.

    Each rank's batches are drawn under a key of its own, rank 0's under that of one process.

    Raises:
        ConfigError: the loader can be read only once.
        DataError: while it is read: a rank has no batch at all, or a batch has no rows to be counted.

    >>> list(per_rank([1, 2, 3]))
    [1, 2, 3]
    """
    return PerRank(as_loader(loader, "per_rank: the loader"), told_to_all)


def told_to_all(number: int) -> Told:
    """Tell the other ranks a whole number, in the background; return what waits for theirs."""
    import torch.distributed as dist

    world = current_world()
    if world.single:
        return lambda: [number]
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    found = torch.empty(world.size, dtype=torch.int64, device=device)
    mine = torch.tensor([number], dtype=torch.int64, device=device)
    work = dist.all_gather_into_tensor(found, mine, async_op=True)

    def told() -> list[int]:
        if work is not None:
            work.wait()
        numbers: list[int] = found.tolist()
        return numbers

    return told


def _own_key(key: Key, world: World) -> Key:
    return key.fold_in(world.rank) if world.rank else key


def _rows(batch: object) -> int:
    """Return how many samples a batch has, 0 for none. Raises `DataError`."""
    if batch is _NONE:
        return 0
    rows = first_length(batch)
    if not rows:
        raise DataError(
            f"per_rank: a batch is {described(batch):.200}, which has no rows to be counted; expected tensors whose "
            f"first dimension is the batch's samples."
        )
    return rows
