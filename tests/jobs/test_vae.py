"""Train a variational autoencoder: no target, and a loss of two parts, told one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import DataLoaders, Learner, StepOutput, TrainState
from nntrain.update import optimizer
from tests.jobs import check_bits, check_job, check_length

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)


class Autoencoder(nn.Module):
    """A linear encoder to mean and log variance of 4 numbers, and a linear decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(20, 8)
        self.decoder = nn.Linear(4, 20)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + noise * (logvar / 2).exp()), mean, logvar


def batch(count: int) -> Batch:
    """Return data, and the noise, so that both loops draw the same."""
    return torch.rand(count, 20, generator=RANDOM), torch.randn(count, 4, generator=RANDOM)


TRAIN = [batch(32), batch(32), batch(32), batch(9)]


def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder()


def plain(epochs: int = 4) -> tuple[nn.Module, list[tuple[float, float]]]:
    model = autoencoder()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    told = []
    for _ in range(epochs):
        recs, kls, count = 0.0, 0.0, 0
        for x, noise in TRAIN:
            preds, mean, logvar = model(x, noise)
            rec = mse_loss(preds, x, reduction="sum") / len(x)
            kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum() / len(x)
            loss = rec + 0.1 * kl
            adam.zero_grad()
            loss.backward()
            adam.step()
            recs, kls, count = recs + rec.item() * len(x), kls + kl.item() * len(x), count + len(x)
        told.append((recs / count, kls / count))
    return model, told


def ours(epochs: int = 4) -> tuple[TrainState, list[tuple[float, float]]]:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        x, noise = batch
        preds, mean, logvar = model(x, noise)
        rec = mse_loss(preds, x, reduction="sum") / len(x)
        kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum() / len(x)
        return StepOutput(rec + 0.1 * kl, preds, x, parts={"rec": rec, "kl": kl})

    adam = optimizer(torch.optim.Adam, lr=1e-2)
    state = Learner.of(autoencoder(), DataLoaders(TRAIN, None), task, adam).fit(epochs, print_stats=False).state
    return state, [(stats.metrics["rec"], stats.metrics["kl"]) for stats in state.history]


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)


def plain_annealed(epochs: int = 4) -> tuple[nn.Module, list[float]]:
    model = autoencoder()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    told, step = [], 0
    for _ in range(epochs):
        total, count = 0.0, 0
        for x, noise in TRAIN:
            preds, mean, logvar = model(x, noise)
            kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).mean()
            loss = mse_loss(preds, x) + min(step / 10, 1.0) * kl
            adam.zero_grad()
            loss.backward()
            adam.step()
            step += 1
            total, count = total + loss.item() * len(x), count + len(x)
        told.append(total / count)
    return model, told


def ours_annealed(epochs: int = 4) -> tuple[TrainState, list[float]]:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        x, noise = batch
        preds, mean, logvar = model(x, noise)
        kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).mean()
        loss = mse_loss(preds, x) + (model.get_buffer("step") / 10).clamp(max=1.0) * kl
        model.get_buffer("step").add_(model.training)
        return StepOutput(loss, preds, x)

    model = autoencoder()
    model.register_buffer("step", torch.zeros(()))
    adam = optimizer(torch.optim.Adam, lr=1e-2)
    state = Learner.of(model, DataLoaders(TRAIN, None), task, adam).fit(epochs, print_stats=False).state
    return state, [stats.loss for stats in state.history]


def test_the_weight_of_a_part_grows_with_the_steps() -> None:
    """A task is not told the step: a buffer of the model counts."""
    (model, figures), (state, told) = plain_annealed(), ours_annealed()
    assert told == figures
    check_bits(dict(state.params), dict(model.named_parameters()))
    check_length(ours_annealed, plain_annealed)
