"""Two processes learn handwritten digits, each from a part of every batch; stopped, they go on when run again.

    uv run torchrun --standalone --nproc-per-node 2 docs/examples/two_processes.py

By one process, with the same batches and, but for the order in which floats are added, the same weights:

    uv run python docs/examples/two_processes.py
    uv run nntrain fit docs/examples/two_processes.py:learner --epochs 10
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from nntrain import Checkpoint, Engine, Learner, accuracy, evaluate, fit_step
from nntrain.checkpoint import resume
from nntrain.data import DataLoaders, load_digits
from nntrain.ranks.world import current_world
from nntrain.sinks import PrintStats

EPOCHS: Final = 10
Batch = tuple[Tensor, Tensor]


def learner(width: int = 64, batch_size: int = 64) -> Learner[Batch]:
    """Return a learner of images of 8 by 8 pixels. `batch_size` is that of the whole batch, on all processes."""
    torch.manual_seed(0)
    return Learner(
        nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)),
        DataLoaders.from_hf_dd(load_digits(), batch_size=batch_size),
        nn.functional.cross_entropy,
        {"accuracy": accuracy},
        torch.optim.AdamW,
        0.01,
        engine=Engine(parallel="data"),
    )


def main(epochs: int, folder: Path, width: int = 64) -> float:
    """Train up to so many epochs from what is in the folder, and return the accuracy on the test split."""
    made = learner(width).replace(sinks=[Checkpoint(folder, every_steps=50), PrintStats()])
    state = resume(folder, made).state or made.init(seed=0)
    if state.progress.at != "finished":
        state = fit_step(made, state, epochs=epochs).state
    stats = evaluate(made, state)  # by all processes, of all samples
    if current_world().first:
        print(f"{current_world().size} processes, {stats.samples} samples, accuracy={stats.metrics['accuracy']:.3f}")
    return stats.metrics["accuracy"]


if __name__ == "__main__":
    main(int(sys.argv[2]) if len(sys.argv) > 2 else EPOCHS, Path(sys.argv[1] if len(sys.argv) > 1 else "two_processes"))
