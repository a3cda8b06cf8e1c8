"""Evaluate on several sets after each epoch, and stop by one of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, EarlyStopping, Learner, TrainState, accuracy
from tests.jobs import check_job

RANDOM = torch.Generator().manual_seed(0)


def batch(count: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 10, generator=RANDOM) + shift
    return x, (x[:, 0] > 0).long()


TRAIN = [batch(16) for _ in range(8)]
SETS = {"clean": [batch(16), batch(4)], "shifted": [batch(16, 0.5)], "far": [batch(8, 2.0), batch(4, 2.0)]}


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))


def plain(epochs: int = 20, patience: int = 2) -> tuple[nn.Module, list[tuple[str, float, float]]]:
    model = classifier()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    told, far = [], []
    for _ in range(epochs):
        for x, y in TRAIN:
            loss = cross_entropy(model(x), y)
            adam.zero_grad()
            loss.backward()
            adam.step()
        for name, batches in SETS.items():
            total, right, count = 0.0, 0, 0
            with torch.no_grad():
                for x, y in batches:
                    preds = model(x)
                    total += cross_entropy(preds, y).item() * len(y)
                    right += int((preds.argmax(1) == y).sum())
                    count += len(y)
            told.append((name, total / count, right / count))
        far.append(told[-1][2])
        if len(far) - far.index(max(far)) > patience:
            break
    return model, told


def ours(epochs: int = 20, patience: int = 2) -> tuple[TrainState, list[tuple[str, float, float]]]:
    stop = EarlyStopping("far/accuracy", "max", patience)
    data = DataLoaders(TRAIN, SETS)
    adam = torch.optim.Adam
    learner = Learner(classifier(), data, cross_entropy, {"accuracy": accuracy}, adam, 1e-2, [stop])
    state = learner.fit(epochs, print_stats=False).state
    phases = [stats for stats in state.history if stats.phase == "eval"]
    return state, [(stats.data, stats.loss, stats.metrics["accuracy"]) for stats in phases]


def test_the_same_bits_as_the_plain_loop() -> None:
    state = check_job(plain, ours)
    assert state.progress.epoch < 20  # it was stopped
