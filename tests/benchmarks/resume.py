"""What the first batch costs where a run starts in the middle of an epoch: `python -m tests.benchmarks.resume`.

Each cell asks nntrain's own stream, made anew, for one batch at a place in the epoch: the time, and its ratio to that
at batch 0 of the same kind of data. Data that knows no start is replayed up to it: its cost grows with the place.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nntrain import Key
from nntrain.data.loaders import as_loader
from nntrain.data.stream import Stream
from tests.benchmarks.report import heading, table
from tests.benchmarks.rounds import Timed, interleaved
from tests.benchmarks.setting import Batch

POSITIONS: Final = (0, 100, 1_000, 10_000)
BATCH_SIZE: Final = 8
ENOUGH: Final = 0.002
"""Seconds that a measurement lasts at least: what takes a microsecond is done often."""


@dataclass(frozen=True)
class Resident:
    """A loader that holds all rows, and gives the batches of a shuffled epoch from any start."""

    images: Tensor
    labels: Tensor

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(Key(seed=0), 0, 0)

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Draw the epoch's order, and begin at `start`."""
        source = torch.Generator().manual_seed(key.fold_in(epoch).bits)
        order = torch.randperm(len(self.labels), generator=source)
        for first in range(start * BATCH_SIZE, len(order), BATCH_SIZE):
            rows = order[first : first + BATCH_SIZE]
            yield self.images[rows], self.labels[rows]


class Streamed(IterableDataset[Batch]):
    """Rows that come one after the other, and have no place that one could begin at."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __iter__(self) -> Iterator[Batch]:
        return ((self.images[row], self.labels[row]) for row in range(len(self.labels)))


def kinds(batches: int) -> dict[str, Iterable[object]]:
    """Make the same rows into data of each kind."""
    source = torch.Generator().manual_seed(0)
    images = torch.rand(batches * BATCH_SIZE, 8, generator=source)
    labels = torch.randint(0, 10, (batches * BATCH_SIZE,), generator=source)
    parts = zip(torch.split(images, BATCH_SIZE), torch.split(labels, BATCH_SIZE), strict=True)
    return {
        "list of batches": list(parts),
        "DataLoader, map-style, shuffled": DataLoader(TensorDataset(images, labels), BATCH_SIZE, shuffle=True),
        "loader with a start, resident": Resident(images, labels),
        "DataLoader, IterableDataset": DataLoader(Streamed(images, labels), BATCH_SIZE),
    }


def first_batch(data: Iterable[object], position: int) -> Timed:
    """Time the first batch of a stream that starts at `position`."""
    key = Key(seed=0)

    def once() -> None:
        stream = Stream(as_loader(data, "train"), 0)
        if stream.batch(key, 0, position) is None:
            raise AssertionError(f"the epoch ended before batch {position}")
        stream.close()

    return _often(once)


def _often(once: Callable[[], None]) -> Timed:
    def timed() -> float:
        times = 0
        began = time.perf_counter()
        while True:
            once()
            times += 1
            spent = time.perf_counter() - began
            if spent >= ENOUGH:
                return spent / times

    return timed


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.resume", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often each cell is timed (default 7)")
    parser.add_argument("--positions", type=int, nargs="+", default=POSITIONS, help="batches to start at, besides 0")
    options = parser.parse_args(argv)
    positions = sorted({0, *options.positions})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = kinds(positions[-1] + 1)
        places = [(kind, position) for kind in data for position in positions]
        for kind in data:
            first_batch(data[kind], 0)()
        state = torch.get_rng_state()  # a stream leaves the seeding of torch's generator to be undone by its caller
        rounds = interleaved({place: first_batch(data[place[0]], place[1]) for place in places}, options.rounds)
        torch.set_rng_state(state)
        print(heading())
        print(
            f"first batch of {BATCH_SIZE} rows from a start: ratio to batch 0 (µs), median of {options.rounds} rounds"
        )
        rows = [
            [
                kind,
                *(
                    f"{rounds.ratio((kind, position), (kind, 0)).median:,.2f} "
                    f"({rounds.microseconds((kind, position)):,.1f})"
                    for position in positions
                ),
            ]
            for kind in data
        ]
        print(table(["data", *(f"batch {position:,}" for position in positions)], rows))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
