"""Add up the gradients of 4 batches for each step, clip them, and follow a cosine with warm-up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, TrainState, supervised
from nntrain.update import accumulate, chain, clip_norm, optimizer
from tests.jobs import check_job

RANDOM = torch.Generator().manual_seed(0)


def batch(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 10, generator=RANDOM), torch.randint(0, 3, (count,), generator=RANDOM)


TRAIN = [batch(8) for _ in range(22)]  # the last window of an epoch has 2 batches
STEPS, WARMUP = 3 * 6, 4


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))


def rate(step: int) -> float:
    """Return the learning rate at an optimizer step: linear to 0.01, then a cosine to 0."""
    if step < WARMUP:
        return 1e-2 * (step + 1) / WARMUP
    return 1e-2 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def plain(epochs: int = 3) -> tuple[nn.Module, int]:
    model = classifier()
    adamw = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    step = 0
    for _ in range(epochs):
        for first in range(0, len(TRAIN), 4):
            window = TRAIN[first : first + 4]
            for x, y in window:
                (cross_entropy(model(x), y) / len(window)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            adamw.param_groups[0]["lr"] = rate(step)
            adamw.step()
            adamw.zero_grad()
            step += 1
    return model, step


def ours(epochs: int = 3) -> tuple[TrainState, int]:
    adamw = optimizer(torch.optim.AdamW, lr=rate, weight_decay=0.1)
    update = chain(accumulate(4), clip_norm(0.5), adamw)
    learner = Learner.of(classifier(), DataLoaders(TRAIN, None), supervised(cross_entropy), update)
    state = learner.fit(epochs, print_stats=False).state
    return state, state.progress.step


def test_the_same_bits_as_the_plain_loop() -> None:
    state = check_job(plain, ours)
    assert state.history[0].samples == 22 * 8


def test_uneven_batches_count_by_their_samples() -> None:
    """The mean gradient is that of the window's samples at once, to rounding: they are added in another order."""
    parts, model = [batch(8), batch(3), batch(1)], classifier()
    whole = (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
    sgd = optimizer(torch.optim.SGD, lr=0.1)
    small = Learner.of(model, DataLoaders(parts, None), supervised(cross_entropy), chain(accumulate(3), sgd))
    big = Learner.of(model, DataLoaders([whole], None), supervised(cross_entropy), sgd)
    once, other = small.fit(2, print_stats=False).state, big.fit(2, print_stats=False).state
    assert once.progress.step == other.progress.step == 2
    assert once.history[0].samples == other.history[0].samples == 12
    for name, tensor in other.params.items():
        torch.testing.assert_close(once.params[name], tensor)
    assert once.history[1].loss == pytest.approx(other.history[1].loss, rel=1e-6)
