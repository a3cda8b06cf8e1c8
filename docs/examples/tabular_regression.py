"""Predict a number from ten columns of a table, five of which have nothing to do with it; measured by R squared.

    uv run python docs/examples/tabular_regression.py
    uv run nntrain fit docs/examples/tabular_regression.py:learner --epochs 40

The table is made by Friedman's first function, with noise of variance 1: so no model explains more than 0.96 of the
variance. J. H. Friedman, "Multivariate Adaptive Regression Splines", The Annals of Statistics 19, 1991.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nntrain import DataLoaders, Learner, StepOutput, supervised
from nntrain.update import chain, clip_norm, ema, optimizer

Batch = tuple[Tensor, Tensor]
EPOCHS = 40


class Moments(NamedTuple):
    """What is remembered of targets and of errors: float64, 0-dim."""

    samples: Tensor
    target: Tensor
    squared: Tensor
    error: Tensor


class RSquared:
    """A metric of a whole phase: the share of the target's variance that is explained, which no mean of batches is."""

    def init(self) -> Moments:
        """Return the memory of no samples."""
        return Moments(*(torch.zeros((), dtype=torch.float64) for _ in range(4)))

    def update(self, memory: Moments, output: StepOutput[Tensor]) -> Moments:
        """Return the memory of a batch more."""
        target, error = output.target.double(), (output.preds - output.target).double()
        rows = torch.full_like(memory.samples, len(target))
        added = (rows, target.sum(), target.square().sum(), error.square().sum())
        return Moments(*(one + more for one, more in zip(memory, added, strict=True)))

    def merge(self, one: Moments, other: Moments) -> Moments:
        """Return the memory of the samples of both."""
        return Moments(*(mine + theirs for mine, theirs in zip(one, other, strict=True)))

    def compute(self, memory: Moments) -> Tensor:
        """Return R squared: 1 is perfect, 0 is as good as the target's mean."""
        return 1 - memory.error / (memory.squared - memory.target.square() / memory.samples)


def table(rows: int, seed: int) -> TensorDataset:
    """Return columns, uniform in [0, 1), and targets, about standardized."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, 10, generator=generator)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return TensorDataset(x, (y + torch.randn(rows, generator=generator) - 14.4) / 5)


def learner(width: int = 64, lr: float = 3e-3, rows: int = 4000) -> Learner[Batch, Tensor]:
    """Return the learner: a loss that outliers do not rule, clipped gradients, and an average of the weights."""
    model = nn.Sequential(
        nn.Linear(10, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1), nn.Flatten(0)
    )
    train: DataLoader[Batch] = DataLoader(table(rows, 0), batch_size=128, shuffle=True)  # type: ignore[arg-type] # of pairs
    valid: DataLoader[Batch] = DataLoader(table(rows // 4, 1), batch_size=512)  # type: ignore[arg-type] # same
    rule = chain(clip_norm(1.0), optimizer(torch.optim.AdamW, lr=lr, weight_decay=0.01), ema(0.99, in_eval=True))
    task = supervised(nn.functional.huber_loss)
    return Learner.of(model, DataLoaders(train, valid), task, rule, metrics={"r2": RSquared()})


def main(epochs: int = EPOCHS, rows: int = 4000) -> None:
    """Train, and say how much is explained."""
    torch.manual_seed(0)
    state = learner(rows=rows).fit(epochs).state
    print(f"{state.history[-1].metrics['r2']:.3f} of the variance is explained; 0.96 can be")


if __name__ == "__main__":
    main()
