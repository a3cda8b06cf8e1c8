"""What the event log costs, beside the same training unlogged: `python -m tests.benchmarks log`.

Each round fits one epoch with each log, to a file on the disk, training and evaluation. The microseconds are what is
added to each batch that is told of; with epochs only, to each batch of the fit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from nntrain import DataLoaders, Learner, accuracy
from nntrain.log import JsonLog
from tests.benchmarks.report import cells, heading, table
from tests.benchmarks.rounds import Timed, interleaved
from tests.benchmarks.setting import LR, Batch, batches_of, model_of

NONE: Final = "no log"
EVERY: Final[dict[str, int | Literal["all"] | None]] = {"epochs": None, "every=50": 50, "every='all'": "all"}


def fitting(learner: Learner[Batch]) -> Timed:
    """Give what fits an epoch, and gives the seconds."""

    def once() -> float:
        began = time.perf_counter()
        learner.fit(1, print_stats=False)
        return time.perf_counter() - began

    return once


def compared(options: argparse.Namespace, folder: Path) -> str:
    """Measure, and give the table."""
    train = batches_of(options.batches, options.batch_size, distinct=100)
    valid = train[: options.batches // 6]
    arguments: tuple[Any, ...] = (nn.functional.cross_entropy, accuracy, torch.optim.SGD, LR)
    learner = Learner(model_of("mlp"), DataLoaders(train, valid), *arguments)
    ready = {NONE: fitting(learner)}
    with ExitStack() as logs:
        for name, every in EVERY.items():
            log = logs.enter_context(JsonLog(folder / f"{len(ready)}.jsonl", every=every))
            ready[name] = fitting(learner.replace(sinks=[log]))
        interleaved(ready, 1)
        rounds = interleaved(ready, options.rounds)
    rows = []
    for name, every in EVERY.items():
        told = sum(len(batches) // every if isinstance(every, int) else len(batches) for batches in (train, valid))
        rows.append([name, *cells(rounds.ratio(name, NONE)), f"{rounds.microseconds(name, NONE) / told:+.1f}"])
    return table(["log", "ratio", "lowest", "highest", "µs more a batch told"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks log", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed (default 15)")
    parser.add_argument("--batches", type=int, default=938, help="of an epoch; a sixth more to evaluate (default 938)")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(heading())
            print(f"epochs of {options.batches} batches of {options.batch_size}, median of {options.rounds} rounds")
            print(compared(options, Path(folder)))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
