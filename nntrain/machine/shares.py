"""Each rank's share of what a phase sums up: merged where all of it is asked for, and taken again from a file.

A state that is between two phases has nothing of it. Amid a phase `sums`, and what `accumulate` waits with, are of this
rank's parts alone; a checkpoint has those of all ranks, each as it is: so the same number of ranks goes on with the
same bits, and another number with the same totals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from nntrain.errors import RankError
from nntrain.metrics.phase import PhaseMetrics, merged
from nntrain.ranks.ranks import Ranks
from nntrain.values.memory import Memory, memory_map
from nntrain.values.record import evolved
from nntrain.values.sums import Sums, WeightedSums


class _Share(NamedTuple):
    """What one rank has summed up in a phase."""

    totals: list[float]
    metrics: tuple[str, ...]
    memory: dict[str, Memory]
    samples: int
    seconds: float
    has_loss: bool


def of_all_ranks(ranks: Ranks, sums: Sums, metrics: PhaseMetrics) -> Sums:
    """Return a phase's sums over all ranks; the same on each of them. Their seconds are those of the slowest."""
    weighted = sums.weighted
    own = _Share(
        weighted.whole(),
        weighted.metrics,
        {name: memory_map(tree, _on_cpu) for name, tree in weighted.memory.items()},
        sums.samples,
        sums.seconds,
        weighted.has_loss,
    )
    shares = ranks.gathered(own)
    odd = [rank for rank, one in enumerate(shares) if (one.metrics, one.has_loss) != (own.metrics, own.has_loss)]
    if odd:
        rank, theirs = odd[0], shares[odd[0]]
        raise RankError(
            f"Rank {rank} has summed up {', '.join(theirs.metrics) or 'the loss'}, and rank {ranks.world.rank} "
            f"{', '.join(own.metrics) or 'the loss'}, one of them perhaps without a loss. A task returns the same "
            f"parts on all ranks.",
            rank,
        )
    return evolved(
        sums,
        weighted=WeightedSums(
            _added([one.totals for one in shares]),
            weighted.metrics,
            {name: _merged(name, metrics, shares) for name in metrics.whole} if weighted.memory else {},
            has_loss=weighted.has_loss,
        ),
        samples=sum(one.samples for one in shares),
        seconds=max(one.seconds for one in shares),
    )


def _added(totals: Sequence[list[float]]) -> list[float]:
    """Add lists of sums up, in the order of the ranks; a shorter one lacks weights that are no ints."""
    longest = max(map(len, totals))
    return [sum(one[at] for one in totals if at < len(one)) for at in range(longest)]


def _merged(name: str, metrics: PhaseMetrics, shares: Sequence[_Share]) -> Memory:
    """Return what a metric remembers of all ranks, merged in their order; those of no samples have nothing."""
    memory: Any = None
    for share in shares:
        if name in share.memory:
            other = metrics.here(share.memory[name])
            memory = other if memory is None else merged(name, metrics.whole[name], memory, other)
    return memory


def _on_cpu(leaf: Any) -> Any:
    return leaf.cpu() if hasattr(leaf, "cpu") else leaf
