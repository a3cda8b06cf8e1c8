"""The setting that the loops are compared in: the models, the batches, and what each loop has to report.

All loops start from the same weights, see the same batches in the same order, learn with plain SGD and say the loss
and the accuracy of both phases once an epoch. Only the fit is timed: what a loop needs to be set up comes before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

Batch = tuple[Tensor, Tensor]
Batches = list[Batch]
LR: Final = 0.01
ModelName = Literal["mlp", "cnn"]


class Reported(NamedTuple):
    """What a loop ends with. A peer that has no facility for a figure gives None."""

    weights: Mapping[str, Tensor]
    train_loss: float
    train_accuracy: float | None
    valid_loss: float
    valid_accuracy: float


@dataclass(frozen=True)
class Prepared:
    """A loop that is ready: `fit` trains and evaluates one epoch, and is what is timed; `report` comes after it."""

    fit: Callable[[], object]
    report: Callable[[], Reported]


Loop = Callable[[nn.Module, Batches, Batches], Prepared]
"""Makes a loop ready on (model, training batches, validation batches); the model itself is left as it is."""


def timed(loop: Loop, model: nn.Module, train: Batches, valid: Batches) -> Callable[[], float]:
    """Give what fits once and returns the seconds of the fit, without those of what comes before it."""

    def once() -> float:
        prepared = loop(model, train, valid)
        if train[0][0].device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        prepared.fit()  # it ends with numbers that were read, and so with the device's work done
        return time.perf_counter() - began

    return once


def again(loop: Loop, model: nn.Module, train: Batches, valid: Batches) -> Callable[[], float]:
    """Return what fits once more and returns the seconds: all is made ready once, and has fitted before."""
    prepared = loop(model, train, valid)
    prepared.fit()

    def once() -> float:
        began = time.perf_counter()
        prepared.fit()
        return time.perf_counter() - began

    return once


def model_of(name: ModelName) -> nn.Module:
    """Make the model: an MLP 784-50-10, or a small convolutional network with BatchNorm."""
    if name == "mlp":
        return mlp(784, 50, 10)
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 6 * 6, 10),
    )


def mlp(*widths: int) -> nn.Module:
    """Make linear layers between the widths, with ReLU between the layers."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batches_of(count: int, batch_size: int, distinct: int | None = None, device: torch.device | str = "cpu") -> Batches:
    """Make batches of noise, the same on every device: inputs [B, 784] in [0, 1), targets [B] in 0..9.

    With `distinct`, only so many lie in memory, and they come again and again.
    """
    source = torch.Generator().manual_seed(0)
    made = [
        (
            torch.rand(batch_size, 784, generator=source).to(device),
            torch.randint(0, 10, (batch_size,), generator=source).to(device),
        )
        for _ in range(min(count, distinct or count))
    ]
    return [made[index % len(made)] for index in range(count)]


class InMemory(Dataset[Batch]):
    """Batches, for libraries that would take a list for something else: a list of loaders, or of rows."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]

    def __len__(self) -> int:
        return len(self.batches)


def mean(values: Sequence[float]) -> float:
    """Give the mean over batches, which are all of one size here."""
    return sum(values) / len(values)
