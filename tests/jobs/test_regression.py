"""Fit a table in float64 to a standardised target; tell the error and R² of all rows, in the target's own units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import DataLoaders, Learner, StepOutput, TrainState
from nntrain.metrics import from_torchmetrics
from nntrain.update import optimizer
from tests.jobs import check_job

regression = pytest.importorskip("torchmetrics.regression")

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(300, 8, generator=RANDOM, dtype=torch.float64)
Y = 100 + 25 * (X[:, :1] - X[:, 1:2] ** 2)
TRAIN = [(X[at : at + 50], Y[at : at + 50]) for at in range(0, 200, 50)]
VALID = [(X[200:260], Y[200:260]), (X[260:], Y[260:])]
MEAN, STD = Y[:200].mean(), Y[:200].std()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).double()


def plain(epochs: int = 5) -> tuple[nn.Module, list[tuple[float, float]]]:
    model = net()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    rmse, r2 = regression.MeanSquaredError(squared=False), regression.R2Score()
    told = []
    for _ in range(epochs):
        for x, y in TRAIN:
            loss = mse_loss(model(x), (y - MEAN) / STD)
            adam.zero_grad()
            loss.backward()
            adam.step()
        rmse.reset()
        r2.reset()
        with torch.no_grad():
            for x, y in VALID:
                preds = model(x) * STD + MEAN
                rmse.update(preds, y)
                r2.update(preds, y)
        told.append((rmse.compute().item(), r2.compute().item()))
    return model, told


def ours(epochs: int = 5) -> tuple[TrainState, list[tuple[float, float]]]:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        x, y = batch
        preds = model(x)
        return StepOutput(mse_loss(preds, (y - MEAN) / STD), preds * STD + MEAN, y)

    rmse, r2 = regression.MeanSquaredError(squared=False), regression.R2Score()
    metrics = {"rmse": from_torchmetrics(rmse), "r2": from_torchmetrics(r2)}
    adam = optimizer(torch.optim.Adam, lr=1e-2)
    state = (
        Learner.of(net(), DataLoaders(TRAIN, VALID), task, adam, metrics=metrics).fit(epochs, print_stats=False).state
    )
    return state, [(stats.metrics["rmse"], stats.metrics["r2"]) for stats in state.history if stats.phase == "eval"]


def test_the_same_bits_as_the_plain_loop() -> None:
    state = check_job(plain, ours)
    assert state.params["0.weight"].dtype == torch.float64
