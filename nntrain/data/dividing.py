"""How a batch is divided over ranks: rank r of N takes the rows floor(r n / N) to floor((r + 1) n / N) of its n.

So batches stay those of one process, whatever the number of ranks: batch k of epoch e is a function of (key, e, k), and
each of its rows is on one rank. Parts differ by one row at most; where there are fewer rows than ranks, some get none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

from torch import Tensor

from nntrain.errors import DataError
from nntrain.ranks.world import World
from nntrain.values.key import Key
from nntrain.values.trees import described, first_length, rows_between

Batch = TypeVar("Batch")


class Part(NamedTuple, Generic[Batch]):
    """A rank's part of a batch: `rows` of the `total`. Where it has none, `batch` is a row that counts for nothing."""

    batch: Batch
    rows: int
    total: int


@runtime_checkable
class Divisible(Protocol[Batch]):
    """A loader that makes a rank's part of its batches without making the others'.

    One that can but sometimes says so in a property `divisible`: see `makes_parts`.
    """

    def parts(self, key: Key, epoch: int, start: int, world: World) -> Iterator[Part[Batch]]:
        """Iterate over a rank's parts of the batches that `batches(key, epoch, start)` gives."""
        ...


def share_of(total: int, world: World) -> tuple[int, int]:
    """Return the first of a rank's rows, and the one after its last."""
    return world.rank * total // world.size, (world.rank + 1) * total // world.size


def taken_rows(total: int, world: World) -> tuple[int, int, int]:
    """Return a rank's first row, the one after its last, and how many of these count: of no row the first is taken."""
    first, last = share_of(total, world)
    return (first, last, last - first) if last > first else (0, 1, 0)


def part_of(batch: Batch, world: World) -> Part[Batch]:
    """Return a rank's part of a batch. Raises `DataError` for one that has no rows to divide."""
    items: Any = batch
    if type(items) is tuple and (of_one := _length(items)):  # as most batches are: it takes a few microseconds
        first, last, rows = taken_rows(of_one, world)
        return Part(cast(Batch, tuple([one[first:last] for one in items])), rows, of_one)
    total = first_length(batch)
    if not total:
        raise DataError(
            f"A batch is {described(batch):.200}, which has no rows to divide over {world.size} ranks; expected "
            f"tensors whose first dimension is the batch's samples."
        )
    first, last, rows = taken_rows(total, world)
    try:
        return Part(rows_between(batch, first, last), rows, total)
    except DataError as error:
        raise DataError(
            f"A batch is {described(batch):.200}: {error}. It is not clear which of "
            f"them go to which of {world.size} ranks: let the first dimension of each tensor be the batch's samples, "
            f"or give the loader a method parts(key, epoch, start, world) that divides it (nntrain.data.Divisible)."
        ) from error


def _length(batch: tuple[Any, ...]) -> int:
    """Return how many rows all items of a batch have, where these are plain tensors of one length; else 0."""
    lengths = {one.shape[0] if type(one) is Tensor and one.ndim else 0 for one in batch}
    return lengths.pop() if len(lengths) == 1 else 0


def makes_parts(loader: object) -> bool:
    """Return whether a loader makes a rank's part without the others': it has `parts`, and not `divisible` = False."""
    return isinstance(loader, Divisible) and bool(getattr(loader, "divisible", True))
