"""Each rank's share of what a phase sums up: merged where all of it is asked for, and taken again from a file.

A state that is between two phases has nothing of it. Amid a phase `sums`, and what `accumulate` waits with, are of this
rank's parts alone; a checkpoint has those of all ranks, each as it is: so the same number of ranks goes on with the
same bits, and another number with the same totals.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from nntrain.errors import RankError, StateError
from nntrain.metrics.phase import PhaseMetrics, merged
from nntrain.ranks.ranks import Ranks
from nntrain.update.accumulating import NAME, collected_in, joined, nothing_of
from nntrain.values.memory import Memory, memory_map
from nntrain.values.record import evolved
from nntrain.values.state import TrainState
from nntrain.values.sums import Sums, WeightedSums
from nntrain.values.tensors import Snapshot, Tensors

_ROOM: Final = 8
"""How many of a phase's totals go with the first numbers that ranks exchange at its end."""


class _Share(NamedTuple):
    """What one rank has summed up in a phase, as it goes to another."""

    totals: list[float]
    metrics: tuple[str, ...]
    memory: dict[str, Memory]
    carried: dict[str, Memory]
    samples: int
    batches: int
    seconds: float
    has_loss: bool

    @classmethod
    def of(cls, sums: Sums) -> _Share:
        """Return what goes along of a rank's sums."""
        weighted = sums.weighted
        return cls(
            weighted.whole(),
            weighted.metrics,
            {name: memory_map(tree, _on_cpu) for name, tree in weighted.memory.items()},
            {name: memory_map(tree, _on_cpu) for name, tree in weighted.carried.items()},
            sums.samples,
            sums.batches,
            sums.seconds,
            weighted.has_loss,
        )

    def sums(self) -> Sums:
        """Return a rank's sums again."""
        weighted = WeightedSums(self.totals, self.metrics, self.memory, has_loss=self.has_loss, carried=self.carried)
        return Sums(weighted=weighted, samples=self.samples, batches=self.batches, seconds=self.seconds)


@dataclass(frozen=True)
class Sharing:
    """How the ranks of a training put together what a checkpoint has of a phase's middle, and take it apart again."""

    ranks: Ranks | None
    metrics: PhaseMetrics
    alone: bool
    """Whether `accumulate` waits with each rank's own gradients."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes for all."""
        return self.ranks is None or self.ranks.world.first

    def is_shared(self, state: TrainState) -> bool:
        """Return whether a state has but this rank's share of something."""
        if self.ranks is None:
            return False
        return bool(state.sums.batches) or (self.alone and bool(_waiting(state)))

    def whole(self, state: TrainState, *, wanted: bool = True) -> TrainState | None:
        """Return the state with the shares of all ranks, which all call it at the same place; None where rank 0 does
        not want it. Rank 0 alone gets them, since it writes: the others keep the state that they have."""
        ranks = self.ranks
        if ranks is None or not self.is_shared(state):
            return state if wanted else None
        if not ranks.rows([float(wanted)])[0][0]:
            return None
        shares = ranks.to_first(_Share.of(state.sums))
        windows: list[dict[str, Any]] | None = None
        snapshot, own = None, dict[str, Any]()
        if self.alone and _waiting(state):
            snapshot = state.tensors.snapshot()
            own = dict(snapshot.optim.rules[NAME])
            windows = ranks.to_first(memory_map(own, _on_cpu))
        if shares is None:
            return state
        state = evolved(state, sums=evolved(state.sums, others=tuple(one.sums() for one in shares[1:])))
        if snapshot is None or windows is None:
            return state
        return _with_window(state, snapshot, {**own, "others": windows[1:]})

    def own(self, state: TrainState) -> TrainState:
        """Return a loaded state with this rank's share alone: its own, or, of another number of ranks, all on rank 0.

        Raises `StateError` where what batches hand on was divided over another number of ranks.
        """
        shares = (evolved(state.sums, others=()), *state.sums.others)
        rank, size = (0, 1) if self.ranks is None else (self.ranks.world.rank, self.ranks.world.size)
        if len(shares) == size == 1 or not (state.sums.batches or self.is_shared(state) or state.sums.others):
            return state
        if len(shares) != size and state.sums.weighted.carried:
            raise StateError(
                f"The state stands amid a phase whose batches hand something on, and was saved by {len(shares)} "
                f"processes; these are {size}. Go on with as many, or from a state between two epochs."
            )
        of_as_many = len(shares) == size
        own = shares[rank] if of_as_many else self._nothing(shares) if rank else added(shares, self.metrics)
        snapshot = state.tensors.snapshot()
        window = dict(snapshot.optim.rules.get(NAME, {}))
        state = evolved(state, sums=own)
        if not window.get("batches"):
            return state
        windows = [{name: one for name, one in window.items() if name != "others"}, *window.get("others", ())]
        if len(windows) != size or not self.alone:
            window = joined(windows)
            window = nothing_of(window) if self.alone and rank else window
        else:
            window = windows[rank]
        return _with_window(state, snapshot, window)

    def _nothing(self, shares: Sequence[Sums]) -> Sums:
        """Return the share of a rank that has nothing of as many batches."""
        first = shares[0]
        weighted = WeightedSums(
            [0.0] * len(first.weighted.whole()),
            first.weighted.metrics,
            self.metrics.init() if first.weighted.memory else {},
            has_loss=first.weighted.has_loss,
        )
        return Sums(weighted=weighted, batches=first.batches)


def _waiting(state: TrainState) -> int:
    """Return how many batches' gradients wait for more."""
    return state.tensors.read(lambda snapshot: collected_in(snapshot.optim))


def _with_window(state: TrainState, snapshot: Snapshot, window: dict[str, Any]) -> TrainState:
    optim = replace(snapshot.optim, rules={**snapshot.optim.rules, NAME: window})
    tensors = Tensors(state.tensors.spec, state.tensors.template, None, replace(snapshot, optim=optim))
    return evolved(state, tensors=tensors)


def of_all_ranks(ranks: Ranks, sums: Sums, metrics: PhaseMetrics) -> Sums:
    """Return a phase's sums over all ranks; the same on each of them.

    Where no metric remembers anything they go as a few numbers a rank, which cost each of a thousand ranks little: at
    once, but for those of more metrics than have room.
    """
    own = sums.weighted
    whole = own.whole()
    kind = float(zlib.crc32(repr((own.metrics, own.has_loss)).encode()))
    mine = [kind, float(bool(own.memory)), float(len(whole)), float(sums.samples), sums.seconds]
    found = ranks.rows([*mine, *_filled(whole[:_ROOM], _ROOM)])
    kinds, remembers, lengths, samples, seconds, *_ = zip(*found, strict=True)
    if len({*kinds}) == 1 and not any(remembers):
        totals, longest = [row[len(mine) :] for row in found], int(max(lengths))
        if longest > _ROOM:
            rest = ranks.rows(_filled(whole[_ROOM:], longest - _ROOM))
            totals = [[*first, *more] for first, more in zip(totals, rest, strict=True)]
        weighted = WeightedSums(
            [sum(one) for one in zip(*totals, strict=True)][:longest], own.metrics, has_loss=own.has_loss
        )
        return evolved(sums, weighted=weighted, samples=int(sum(samples)), seconds=max(seconds), others=())
    shares = [one.sums() for one in ranks.gathered(_Share.of(sums))]
    for rank, one in enumerate(shares):
        if (one.weighted.metrics, one.weighted.has_loss) != (own.metrics, own.has_loss):
            raise RankError(
                f"Rank {rank} has summed up {', '.join(one.weighted.metrics) or 'the loss'}, and rank "
                f"{ranks.world.rank} {', '.join(own.metrics) or 'the loss'}, one of them perhaps without a loss. A "
                f"task returns the same parts on all ranks.",
                rank,
            )
    return added(shares, metrics)


def _filled(totals: Sequence[float], length: int) -> list[float]:
    """Return totals with as many zeros as they lack: some ranks have no weights that are no ints."""
    return [*totals, *[0.0] * (length - len(totals))]


def added(shares: Sequence[Sums], metrics: PhaseMetrics) -> Sums:
    """Return the sums of all ranks in their order. The seconds are those of the slowest."""
    first = shares[0].weighted
    remembers = any(one.weighted.memory for one in shares)
    totals = WeightedSums(
        _added([one.weighted.whole() for one in shares]),
        first.metrics,
        {name: _merged(name, metrics, shares) for name in metrics.whole if remembers},
        has_loss=first.has_loss,
    )
    samples, seconds = sum(one.samples for one in shares), max(one.seconds for one in shares)
    return evolved(shares[0], weighted=totals, samples=samples, seconds=seconds, others=())


def _added(totals: Sequence[list[float]]) -> list[float]:
    """Add lists of sums up, in the order of the ranks; a shorter one lacks weights that are no ints."""
    longest = max(map(len, totals))
    return [sum(one[at] for one in totals if at < len(one)) for at in range(longest)]


def _merged(name: str, metrics: PhaseMetrics, shares: Sequence[Sums]) -> Memory:
    """Return what a metric remembers of all ranks, merged in their order; those of no samples have nothing."""
    memory: Any = None
    for share in shares:
        if name in share.weighted.memory:
            other = metrics.here(share.weighted.memory[name])
            memory = other if memory is None else merged(name, metrics.whole[name], memory, other)
    return memory


def _on_cpu(leaf: Any) -> Any:
    return leaf.cpu() if hasattr(leaf, "cpu") else leaf
