"""Train a generator and a discriminator in turns: the discriminator first, the generator through the new one."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from nntrain import DataLoaders, Learner, Objective, StepOutput, TrainState
from nntrain.update import optimizer
from tests.jobs import check_job

Batch = tuple[Tensor, Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)


def batch(count: int) -> Batch:
    """Return real data, and the noise for the turn of each, so that both loops draw the same."""
    noise = torch.randn(2, count, 4, generator=RANDOM)
    return torch.randn(count, 2, generator=RANDOM) * 0.3 + 2, noise[0], noise[1]


TRAIN = [batch(32) for _ in range(6)] + [batch(5)]


def networks() -> nn.ModuleDict:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    discriminator = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    return nn.ModuleDict({"g": generator, "d": discriminator})


def against(scores: Tensor, answer: float) -> Tensor:
    """Return how far scores are from an answer: 1 for real, 0 for made."""
    return binary_cross_entropy_with_logits(scores, torch.full_like(scores, answer))


def plain(epochs: int = 3) -> tuple[nn.Module, list[tuple[float, float]]]:
    model = networks()
    adam_d = torch.optim.Adam(model["d"].parameters(), lr=2e-3, betas=(0.5, 0.999))
    adam_g = torch.optim.Adam(model["g"].parameters(), lr=1e-3, betas=(0.5, 0.999))
    told = []
    for _ in range(epochs):
        d_total, g_total, count = 0.0, 0.0, 0
        for real, noise_d, noise_g in TRAIN:
            made = model["g"](noise_d).detach()
            d_loss = against(model["d"](real), 1.0) + against(model["d"](made), 0.0)
            adam_d.zero_grad()
            d_loss.backward()
            adam_d.step()
            g_loss = against(model["d"](model["g"](noise_g)), 1.0)
            adam_g.zero_grad()
            g_loss.backward()
            adam_g.step()
            d_total, g_total = d_total + d_loss.item() * len(real), g_total + g_loss.item() * len(real)
            count += len(real)
        told.append((d_total / count, g_total / count))
    return model, told


def ours(epochs: int = 3) -> tuple[TrainState, list[tuple[float, float]]]:
    def discriminate(model: nn.ModuleDict, batch: Batch) -> StepOutput[None]:
        real, noise, _ = batch
        made = model["g"](noise).detach()
        return StepOutput(against(model["d"](real), 1.0) + against(model["d"](made), 0.0))

    def generate(model: nn.ModuleDict, batch: Batch) -> StepOutput[None]:
        return StepOutput(against(model["d"](model["g"](batch[2])), 1.0))

    adam = partial(optimizer, torch.optim.Adam, betas=(0.5, 0.999))
    d = Objective("d", discriminate, adam(params="d.*", lr=2e-3))
    g = Objective("g", generate, adam(params="g.*", lr=1e-3))
    learner = Learner.of(networks(), DataLoaders(TRAIN, None), objectives=[d, g])
    state = learner.fit(epochs, print_stats=False).state
    return state, [(stats.metrics["d"], stats.metrics["g"]) for stats in state.history]


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)
