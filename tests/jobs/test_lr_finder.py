"""Find a learning rate: it grows with each step, until the loss has become much greater than it was."""

from __future__ import annotations

from itertools import cycle

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, lr_find
from tests.jobs import check_length

RANDOM = torch.Generator().manual_seed(0)
TRAIN = [(torch.randn(32, 10, generator=RANDOM), torch.randint(0, 3, (32,), generator=RANDOM)) for _ in range(12)]
STEPS = 60


def rate(step: int) -> float:
    """Return rates from 1e-5 to 1000, each greater than the last by the same factor."""
    return float(1e-5 * (1000.0 / 1e-5) ** (step / (STEPS - 1)))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))


def plain() -> list[tuple[float, float]]:
    model = classifier()
    sgd = torch.optim.SGD(model.parameters())
    told: list[tuple[float, float]] = []
    for step, (x, y) in zip(range(STEPS), cycle(TRAIN), strict=False):
        sgd.param_groups[0]["lr"] = rate(step)
        loss = cross_entropy(model(x), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        told.append((rate(step), loss.item()))
        if loss > 4 * min(loss for _, loss in told):
            break
    return told


def ours() -> list[tuple[float, float]]:
    learner = Learner(classifier(), DataLoaders(TRAIN, None), cross_entropy, {}, torch.optim.SGD, 1.0)
    found = lr_find(learner, learner.init(), start=1e-5, end=1000.0, steps=STEPS, smoothing=0.0)
    return [*zip(found.lrs, found.losses, strict=True)]


def test_the_same_curve_as_the_plain_loop() -> None:
    told = ours()
    assert told == plain()
    assert 1 < len(told) < STEPS  # it was stopped
    check_length(ours, plain)
