"""Find a learning rate: it grows with each step, until the loss has become much greater than it was.

Left to issue 19: `lr_find`, with its suggestions.
"""

from __future__ import annotations

from itertools import cycle

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nntrain import CancelFit, DataLoaders, Learner, TrainState, fit_step, on, supervised
from nntrain.data import segments
from nntrain.update import optimizer
from tests.jobs import check_length

RANDOM = torch.Generator().manual_seed(0)
TRAIN = [(torch.randn(32, 10, generator=RANDOM), torch.randint(0, 3, (32,), generator=RANDOM)) for _ in range(12)]
STEPS = 60


def rate(step: int) -> float:
    """Return rates from 1e-5 to 1000, each greater than the last by the same factor."""
    return float(1e-5 * 1e8 ** (step / (STEPS - 1)))


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
    @on("after_epoch")
    def diverging(state: TrainState) -> TrainState | CancelFit:
        losses = [stats.loss for stats in state.history]
        return CancelFit() if losses[-1] > 4 * min(losses) else state

    each = DataLoaders(segments(TRAIN, batches=1), None)  # an epoch is one batch: the history has each loss
    sgd = optimizer(torch.optim.SGD, lr=rate)
    learner = Learner.of(classifier(), each, supervised(cross_entropy), sgd, subs=[diverging])
    history = fit_step(learner, learner.init(), epochs=STEPS).state.history
    return [(rate(stats.epoch), stats.loss) for stats in history]


def test_the_same_curve_as_the_plain_loop() -> None:
    told = ours()
    assert told == plain()
    assert 1 < len(told) < STEPS  # it was stopped
    check_length(ours, plain)
