"""Where the microseconds of a batch go: `python -m tests.benchmarks.profile`.

A timer interrupts a training a thousand times a second of processor time, and each time the innermost frame of
nntrain's is counted: what torch does is its caller's. So nothing is slowed down, as it would be by a profiler that sees
each call. The parts are the places of nntrain's that call the model, the backward pass, the optimizer and the metrics,
and the modules of nntrain's own work.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import torch
from torch import nn

import nntrain
from nntrain import DataLoaders, Learner, accuracy
from tests.benchmarks.own import PassThrough
from tests.benchmarks.report import heading, table
from tests.benchmarks.setting import LR, batches_of, model_of

HOME: Final = str(Path(nntrain.__file__).parent)
EVERY: Final = 0.001

TORCH: Final = {
    ("task", "called"): "torch: model and loss",
    ("task", "__call__"): "torch: model and loss",
    ("live", "backward"): "torch: backward",
    ("update", "_step"): "torch: the optimizer's step",
    ("metrics", "accuracy"): "torch: the metric",
    ("live", "run"): "reading loss and metric, and the sums",
    ("values", "add"): "reading loss and metric, and the sums",
}
OWN: Final = {
    "machine": "machine: the loop over batches, states, the clock",
    "values": "values: states and what they are made of, seeds",
    "live": "live: who holds the value, gradients, what a forward pass writes",
    "update": "update: hooks, what was written",
    "task": "task: taking the batch apart, device, samples, checks",
    "metrics": "metrics: checks",
    "data": "data: the next batch",
    "subscribers": "subscribers: asking them",
    "sinks": "sinks: telling them",
}


def part_of(frame: FrameType | None) -> str:
    """Return the part of a batch that a stack is in."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(HOME):
            room = Path(code.co_filename).relative_to(HOME).parts[0]
            return TORCH.get((room, code.co_name), OWN.get(room, "the rest"))
        frame = frame.f_back
    return "the rest"


def sampled(learner: Learner[tuple[torch.Tensor, torch.Tensor]], epochs: int) -> tuple[Counter[str], float]:
    """Train, and give how often each part was met, and the seconds."""
    met: Counter[str] = Counter()

    def look(number: int, frame: FrameType | None) -> None:
        met[part_of(frame)] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    began = time.perf_counter()
    try:
        learner.fit(epochs, print_stats=False)
    finally:
        seconds = time.perf_counter() - began
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return met, seconds


def profile(met: Counter[str], seconds: float, batches: int) -> str:
    """Give the table of the parts, most first."""
    total = sum(met.values())
    rows = [
        [name, f"{count / total * seconds / batches * 1e6:.1f}", f"{count / total:.1%}"]
        for name, count in met.most_common()
    ]
    return table(["part of a batch", "µs", "share"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Sample a training and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.profile", description=__doc__)
    parser.add_argument("--model", choices=("mlp", "cnn"), default="mlp")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--subscribers", type=int, default=0, help="that pass through, on both batch events")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: where the host's time goes")
    options = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        device = torch.device(options.device)
        train = batches_of(options.batches, options.batch_size, device=device)
        learner = Learner(
            model_of(options.model),
            DataLoaders(train, train[:1]),
            nn.functional.cross_entropy,
            accuracy,
            torch.optim.SGD,
            LR,
            [PassThrough() for _ in range(options.subscribers)],
            device=device,
        )
        learner.fit(1, print_stats=False)
        met, seconds = sampled(learner, options.epochs)
        print(heading())
        print(
            f"{options.model} on {device.type}, batch {options.batch_size}, {options.subscribers} subscribers, "
            f"{sum(met.values())} samples"
        )
        print(profile(met, seconds, options.epochs * (len(train) + 1)))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
