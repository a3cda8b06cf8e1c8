"""How what nntrain adds to a batch grows: with the batches of an epoch, the parameter tensors, the subscribers.

Each row is nntrain beside the hand-written loop in the same rounds, in one setting. Only 100 batches lie in memory and
come again and again, so that long epochs are not measured on other memory than short ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tests.benchmarks.own import by_nntrain, hand_written
from tests.benchmarks.report import cells, table
from tests.benchmarks.rounds import interleaved
from tests.benchmarks.setting import Loop, batches_of, mlp, timed


def growth(
    rounds: int,
    batch_size: int,
    batches: int,
    *,
    counts: Sequence[int] = (100, 1_000, 5_000),
    depths: Sequence[int] = (2, 10, 50),
    subscribers: Sequence[int] = (0, 1, 3, 10),
) -> str:
    """Give the table; the epochs have `batches` batches where they are not what grows."""
    shallow, plain = mlp(784, 50, 10), by_nntrain()
    rows = [_row(f"{count:,} batches an epoch", plain, shallow, count, batch_size, rounds) for count in counts]
    for depth in depths:
        deep = mlp(784, *[50] * (depth - 1), 10)
        tensors = len(list(deep.parameters()))
        rows.append(_row(f"depth {depth}: {tensors} parameter tensors", plain, deep, batches, batch_size, rounds))
    for count in subscribers:
        rows.append(_row(f"{count} subscribers", by_nntrain(count), shallow, batches, batch_size, rounds))
    return table(["setting", "µs more a batch", "hand-written, µs a batch", "ratio", "lowest", "highest"], rows)


def _row(name: str, loop: Loop, model: nn.Module, count: int, batch_size: int, rounds: int) -> list[str]:
    train, valid = batches_of(count, batch_size, distinct=100), batches_of(1, batch_size)

    loops = {"hand-written": timed(hand_written, model, train, valid), "nntrain": timed(loop, model, train, valid)}
    interleaved(loops, 1)  # the first time is no measure
    found = interleaved(loops, rounds)
    more = found.microseconds("nntrain", "hand-written") / (count + 1)
    by_hand = found.microseconds("hand-written") / (count + 1)
    return [name, f"{more:+.1f}", f"{by_hand:.1f}", *cells(found.ratio("nntrain", "hand-written"))]
