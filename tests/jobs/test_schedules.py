"""Lower the rate where the loss stands still; and one cycle of rate and momentum."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from nntrain import DataLoaders, Learner, ReduceOnPlateau, TrainState, fit_step, supervised
from nntrain.schedules import one_cycle, one_cycle_momentum
from nntrain.update import optimizer
from tests.jobs import check_job

RANDOM = torch.Generator().manual_seed(0)
TRAIN = [(torch.randn(32, 10, generator=RANDOM), torch.randint(0, 3, (32,), generator=RANDOM)) for _ in range(6)]
VALID = TRAIN[:2]


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))


def plain_plateau(epochs: int = 40) -> tuple[nn.Module, list[float]]:
    model = classifier()
    sgd = torch.optim.SGD(model.parameters(), lr=8.0)
    scheduler = ReduceLROnPlateau(sgd, factor=0.5, patience=1)
    told = []
    for _ in range(epochs):
        for x, y in TRAIN:
            loss = cross_entropy(model(x), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        with torch.no_grad():
            valid = sum(cross_entropy(model(x), y).item() * len(y) for x, y in VALID)
        scheduler.step(valid / sum(len(y) for _, y in VALID))
        told.append(sgd.param_groups[0]["lr"])
    return model, told


def ours_plateau(epochs: int = 40) -> tuple[TrainState, list[float]]:
    plateau = ReduceOnPlateau(factor=0.5, patience=1)
    learner = Learner(classifier(), DataLoaders(TRAIN, VALID), cross_entropy, {}, torch.optim.SGD, 8.0, [plateau])
    state = learner.init()
    told = []
    for _ in range(epochs):
        state = fit_step(learner, state, epochs=1).state
        told.append(8.0 * state.lr_scale)
    return state, told


def test_a_rate_that_is_halved_on_plateaus() -> None:
    state = check_job(plain_plateau, ours_plateau)
    assert state.lr_scale < 0.5  # more than once


def plain_cycle(epochs: int = 3) -> tuple[nn.Module, list[tuple[float, float]]]:
    model = classifier()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = OneCycleLR(sgd, max_lr=0.5, total_steps=epochs * len(TRAIN) + 1)
    told = []
    for _ in range(epochs):
        for x, y in TRAIN:
            loss = cross_entropy(model(x), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            told.append((sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]))
            scheduler.step()
    return model, told


def ours_cycle(epochs: int = 3) -> tuple[TrainState, list[tuple[float, float]]]:
    steps = epochs * len(TRAIN)
    lr, momentum = one_cycle(0.5, steps=steps + 1), one_cycle_momentum(steps=steps + 1)
    sgd = optimizer(torch.optim.SGD, lr=lr, momentum=momentum)
    learner = Learner.of(classifier(), DataLoaders(TRAIN, None), supervised(cross_entropy), sgd)
    return learner.fit(epochs, print_stats=False).state, [(lr(step), momentum(step)) for step in range(steps)]


def test_one_cycle_of_rate_and_momentum() -> None:
    check_job(plain_cycle, ours_cycle)
