"""Truncated back-propagation through time: the hidden state goes on from batch to batch, and begins anew each phase.

Today it is a buffer of the model, and each batch says whether it is the first. Left to issue 19: `Carry`, which begins
anew with each phase by itself, and takes another batch size in eval.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import DataLoaders, Learner, StepOutput, TrainState
from nntrain.update import optimizer
from tests.jobs import check_bits, check_length

Batch = tuple[Tensor, Tensor, bool]
RANDOM = torch.Generator().manual_seed(0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        out, last = self.rnn(x, hidden)
        return self.head(out), last


def windows() -> list[Batch]:
    """Return 4 random walks of 64 points in windows of 8, with the points that come next."""
    x = torch.randn(4, 64, 3, generator=RANDOM).cumsum(1) * 0.1
    y = x.roll(-1, 1)
    return [(x[:, at : at + 8], y[:, at : at + 8], at == 0) for at in range(0, 64, 8)]


TRAIN, VALID = windows(), windows()


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def plain(epochs: int = 3) -> tuple[nn.Module, list[float]]:
    model = net()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    told = []
    for _ in range(epochs):
        hidden = None
        for x, y, _first in TRAIN:
            preds, hidden = model(x, hidden)
            hidden = hidden.detach()
            loss = mse_loss(preds, y)
            adam.zero_grad()
            loss.backward()
            adam.step()
        hidden, total = None, 0.0
        with torch.no_grad():
            for x, y, _first in VALID:
                preds, hidden = model(x, hidden)
                total += mse_loss(preds, y).item()
        told.append(total / len(VALID))
    return model, told


def ours(epochs: int = 3) -> tuple[TrainState, list[float]]:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        x, y, first = batch
        preds, hidden = model(x, None if first else model.get_buffer("hidden").clone())
        model.get_buffer("hidden").copy_(hidden.detach())
        return StepOutput(mse_loss(preds, y), preds, y)

    model = net()
    model.register_buffer("hidden", torch.zeros(1, 4, 16))
    learner = Learner.of(model, DataLoaders(TRAIN, VALID), task, optimizer(torch.optim.Adam, lr=1e-2))
    state = learner.fit(epochs, print_stats=False).state
    return state, [stats.loss for stats in state.history if stats.phase == "eval"]


def test_the_same_bits_as_the_plain_loop() -> None:
    (model, figures), (state, told) = plain(), ours()
    assert told == figures
    check_bits(dict(state.params), dict(model.named_parameters()))
    check_length(ours, plain)
