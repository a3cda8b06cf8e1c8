"""A small classifier of images for the tests of what looks inside a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, accuracy

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(6, 1, 6, 6, generator=SOURCE), torch.randint(0, 3, (6,), generator=SOURCE)) for _ in range(5)]


class Net(nn.Module):
    """A body, and a head; one ReLU is called twice."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)
        self.between = nn.Linear(64, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.relu(self.body(inputs)).flatten(1)
        given: Tensor = self.head(self.dropout(self.relu(self.between(found))))
        return given


def make_model(dropout: float = 0.0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net(dropout)


def learner_of(dropout: float = 0.0, **more: Any) -> Learner[Batch, Tensor]:
    return Learner(
        **{
            "model": make_model(dropout),
            "dls": DataLoaders(DATA, DATA[:2]),
            "loss_fn": cross_entropy,
            "metric_fn": {"accuracy": accuracy},
            "optim_class": torch.optim.Adam,
            "lr": 0.01,
            **more,
        }
    )
