"""Train on rare positives; the AUROC of all of the eval phase is told, and says when to stop and what to keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from nntrain import DataLoaders, EarlyStopping, Learner, StepOutput, TrainState
from nntrain.metrics import from_torchmetrics
from nntrain.update import optimizer
from tests.jobs import check_job

classification = pytest.importorskip("torchmetrics.classification")

RANDOM = torch.Generator().manual_seed(0)
SLOPE = torch.randn(10, generator=RANDOM)


def batch(count: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 10, generator=RANDOM)
    return x, (x @ SLOPE + torch.randn(count, generator=RANDOM) > 3).float()


TRAIN, VALID = [batch(32) for _ in range(8)], [batch(32), batch(32), batch(5)]


def scorer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))


def plain(epochs: int = 20, patience: int = 2) -> tuple[nn.Module, list[float]]:
    model = scorer()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    auroc = classification.BinaryAUROC()
    told: list[float] = []
    for _ in range(epochs):
        for x, y in TRAIN:
            loss = binary_cross_entropy_with_logits(model(x), y)
            adam.zero_grad()
            loss.backward()
            adam.step()
        auroc.reset()
        with torch.no_grad():
            for x, y in VALID:
                auroc.update(model(x), y.int())
        told.append(auroc.compute().item())
        if len(told) - told.index(max(told)) > patience:
            break
    return model, told


def ours(epochs: int = 20, patience: int = 2) -> tuple[TrainState, list[float]]:
    def task(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        preds = model(batch[0])
        return StepOutput(binary_cross_entropy_with_logits(preds, batch[1]), preds, batch[1].int())

    auroc = from_torchmetrics(classification.BinaryAUROC())
    adam = optimizer(torch.optim.Adam, lr=1e-2)
    stop = EarlyStopping("auroc", "max", patience)
    learner = Learner.of(scorer(), DataLoaders(TRAIN, VALID), task, adam, metrics={"auroc": auroc}, subs=[stop])
    state = learner.fit(epochs, print_stats=False).state
    return state, [stats.metrics["auroc"] for stats in state.history if stats.phase == "eval"]


def test_the_same_bits_as_the_plain_loop() -> None:
    state = check_job(plain, ours)
    assert state.progress.epoch < 20  # it was stopped
