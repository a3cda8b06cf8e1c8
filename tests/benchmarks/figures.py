"""The original's figures on Fashion-MNIST, by nntrain: `python -m tests.benchmarks.figures [FOLDER]`.

MLP 784-50-10, ReLU, SGD with lr 0.01, batches of 1024, 5 epochs, pixels in [0, 1]; one row a seed. FOLDER has the four
idx files; by default it is where Debian's package dataset-fashion-mnist puts them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from nntrain import DataLoaders, Learner, TrainState, accuracy
from nntrain.data import load_fashion_mnist

REAL: Final = Path("/usr/share/datasets/fashion-mnist")
SEEDS: Final = range(5)
EPOCHS: Final = 5


class Figures(NamedTuple):
    """What the original reported, of one training."""

    train_loss_0: float
    train_loss_4: float
    eval_loss_4: float
    eval_accuracy_4: float


ORIGINAL: Final = Figures(2.177, 1.261, 1.202, 0.657)
LOWEST: Final = Figures(2.15, 1.23, 1.17, 0.640)
HIGHEST: Final = Figures(2.23, 1.35, 1.28, 0.665)
"""What each figure must be within, ends included."""


def loaders(folder: Path = REAL) -> DataLoaders[tuple[Tensor, Tensor]]:
    """Make the loaders that a user gets."""
    return DataLoaders.from_hf_dd(load_fashion_mnist(folder), batch_size=1024)


def trained(dls: DataLoaders[tuple[Tensor, Tensor]], seed: int, epochs: int = EPOCHS) -> TrainState:
    """Train as the original did."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
    learner = Learner(model, dls, nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.01)
    return learner.fit(epochs, seed=seed, print_stats=False).state


def figures(state: TrainState) -> Figures:
    """Take the figures out of the history of five epochs."""
    history = {(stats.epoch, stats.phase): stats for stats in state.history}
    last = history[4, "eval"]
    return Figures(history[0, "train"].loss, history[4, "train"].loss, last.loss, last.metrics["metric"])


def table(rows: dict[str, Figures]) -> str:
    """Give the table of the docs."""
    lines = [
        "| | train loss, epoch 0 | train loss, epoch 4 | eval loss, epoch 4 | eval accuracy, epoch 4 |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |" for name, row in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Train each seed and print the table."""
    dls = loaders(Path(sys.argv[1]) if len(sys.argv) > 1 else REAL)
    rows = {f"seed {seed}": figures(trained(dls, seed)) for seed in SEEDS}
    print(table({"the original": ORIGINAL, **rows}))


if __name__ == "__main__":
    main()
