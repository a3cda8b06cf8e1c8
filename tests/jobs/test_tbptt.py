"""Truncated back-propagation through time: the hidden state goes on from batch to batch, and begins anew each phase."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import DataLoaders, Learner, StepOutput, TrainState, carry
from nntrain.update import optimizer
from tests.jobs import check_job

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        out, last = self.rnn(x, hidden)
        return self.head(out), last


def windows(walks: int) -> list[Batch]:
    """Return random walks of 64 points in windows of 8, with the points that come next."""
    x = torch.randn(walks, 64, 3, generator=RANDOM).cumsum(1) * 0.1
    y = x.roll(-1, 1)
    return [(x[:, at : at + 8], y[:, at : at + 8]) for at in range(0, 64, 8)]


TRAIN, VALID = windows(4), windows(2)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def plain(epochs: int = 3) -> tuple[nn.Module, list[float]]:
    model = net()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    told = []
    for _ in range(epochs):
        hidden = None
        for x, y in TRAIN:
            preds, hidden = model(x, hidden)
            hidden = hidden.detach()
            loss = mse_loss(preds, y)
            adam.zero_grad()
            loss.backward()
            adam.step()
        hidden, total = None, 0.0
        with torch.no_grad():
            for x, y in VALID:
                preds, hidden = model(x, hidden)
                total += mse_loss(preds, y).item()
        told.append(total / len(VALID))
    return model, told


def ours(epochs: int = 3) -> tuple[TrainState, list[float]]:
    def task(model: Net, batch: Batch, hidden: Tensor | None) -> tuple[StepOutput[Tensor], Tensor]:
        x, y = batch
        preds, last = model(x, hidden)
        return StepOutput(mse_loss(preds, y), preds, y), last

    learner = Learner.of(net(), DataLoaders(TRAIN, VALID), carry(task), optimizer(torch.optim.Adam, lr=1e-2))
    state = learner.fit(epochs, print_stats=False).state
    return state, [stats.loss for stats in state.history if stats.phase == "eval"]


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)
