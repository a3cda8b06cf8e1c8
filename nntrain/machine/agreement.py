"""What the ranks of a training agree on: what subscribers answered, and a phase's sums.

All ranks come here at the same places. An answer that one rank's subscriber gave holds for all: an error before a
verdict, a verdict before a state, and of several that of the lowest rank. Where all ranks answered alike, as they do
where subscribers look at what is the same on all, nothing is sent.
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from nntrain.errors import RankError, SubscriberError
from nntrain.ranks.ranks import Ranks
from nntrain.subscribers.asking import Published
from nntrain.values.record import assembled
from nntrain.values.state import TrainState
from nntrain.values.sums import Sums, WeightedSums
from nntrain.values.tensors import Snapshot, Tensors
from nntrain.values.verdicts import Event

_NOTHING, _STATE, _VERDICT, _ERROR = range(4)


def agreed(ranks: Ranks, event: Event, given: TrainState, ask: Callable[[], Published]) -> Published:
    """Return what all ranks go on with, after each has asked its own subscribers about the state `given`.

    Raises what this rank's subscriber raised, or `RankError` where another rank's did.
    """
    failed: Exception | None = None
    published = Published(given)
    try:
        published = ask()
    except Exception as error:  # noqa: BLE001 - the others are to know of it first
        failed = error
    kind = _ERROR if failed else _VERDICT if published.verdict else _STATE if published.state is not given else _NOTHING
    mark = 0 if kind in {_NOTHING, _ERROR} else _mark(published, given)
    # Of all ranks, in one small message whose cost does not grow with them: the greatest, and with - the least.
    strongest, most, weakest, least = ranks.greatest([float(kind), float(mark), -float(kind), -float(mark)])
    if strongest == _NOTHING:
        return published
    if strongest == -weakest != _ERROR and most == -least:
        return published._replace(rank=0)
    rank = [int(row[0]) for row in ranks.rows([float(kind)])].index(int(strongest))
    if strongest == _ERROR:
        said = ranks.from_rank(rank, f"{type(failed).__name__}: {failed}")
        if failed is not None:
            raise failed
        raise RankError(f"Rank {rank} failed, asking a subscriber at {event}: {said}", rank)
    if rank == ranks.world.rank:
        ranks.from_rank(rank, _packed(published, given))
        return published._replace(rank=rank)
    return _unpacked(ranks.from_rank(rank, b""), given)._replace(rank=rank)


def _mark(published: Published, given: TrainState) -> int:
    """Return a number by which ranks tell whether they answered alike, but for what is each rank's own."""
    answer = published.state, published.verdict, published.by
    try:
        return zlib.crc32(_packed(answer, given, marks=True))
    except (pickle.PicklingError, TypeError, AttributeError):
        return zlib.crc32(repr((published.state.progress, published.verdict, published.by)).encode())


def _packed(answer: object, given: TrainState, *, marks: bool = False) -> bytes:
    """Return an answer as bytes. Raises `SubscriberError` where a record in it can't be sent to another rank."""
    file = io.BytesIO()
    try:
        _Pickler(file, given, marks=marks).dump(answer)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        if marks:
            raise
        raise SubscriberError(
            f"The ranks answered differently, and what a subscriber of this one keeps in the state cannot be sent to "
            f"the others ({error}). Keep records of numbers, texts and tensors, of classes at the top of a module."
        ) from error
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Sends states: the tensors and sums of the one that was given by name, since each rank has its own; or copies.

    For `marks` what is each rank's own is left out.
    """

    def __init__(self, file: io.BytesIO, given: TrainState, *, marks: bool) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._given = given
        self._marks = marks

    def persistent_id(self, obj: object) -> str | None:
        """Return the name of what each rank has."""
        if obj is self._given.tensors:
            return "tensors"
        return "sums" if obj is self._given.sums or (self._marks and isinstance(obj, Sums)) else None

    def reducer_override(self, obj: object) -> Any:
        """Return how a part of a state is made again, where it does not say that itself."""
        if isinstance(obj, TrainState):
            return assembled, (TrainState, dict(vars(obj)), set(obj.model_fields_set))
        if isinstance(obj, Tensors):
            if obj.sharded and not self._marks:
                raise TypeError("its weights are sharded, and each rank has but its part; answer it on all ranks")
            snapshot = None if self._marks else obj.snapshot()
            return _sent_tensors, (
                snapshot and replace(snapshot, optim=replace(snapshot.optim, options=())),
                self._given.tensors,
            )
        if isinstance(obj, Sums):
            return _others_sums, (len(obj.weighted.tolist()), obj.weighted.metrics, obj.batches)
        if isinstance(obj, MappingProxyType):
            return MappingProxyType, (dict(obj),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Reads what another rank of the same training has sent."""

    def __init__(self, file: io.BytesIO, given: TrainState) -> None:
        super().__init__(file)
        self._given = given

    def persistent_load(self, pid: str) -> object:
        """Return this rank's own."""
        return getattr(self._given, pid)


def _unpacked(sent: bytes, given: TrainState) -> Published:
    """Return the answer of another rank, as one about this rank's state."""
    published: Published = _Unpickler(io.BytesIO(sent), given).load()
    return published


def _sent_tensors(snapshot: Snapshot, own: Tensors) -> Tensors:
    """Return a handle on a copy that another rank has sent, with what no state holds as this rank's `own` has it."""
    options = own.read(lambda here: here.optim.options)
    return Tensors(own.spec, own.template, None, replace(snapshot, optim=replace(snapshot.optim, options=options)))


def _others_sums(values: int, metrics: tuple[str, ...], batches: int) -> Sums:
    """Return this rank's share of sums that another rank has: nothing, of as many batches."""
    return Sums(weighted=WeightedSums([0.0] * values, metrics), batches=batches)
