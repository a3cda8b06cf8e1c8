"""Train a student on the answers of a frozen teacher, which has dropout that is to stay off."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from nntrain import DataLoaders, Learner, StepOutput, TrainState, accuracy
from nntrain.update import optimizer
from tests.jobs import check_job

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)


def batch(count: int) -> Batch:
    return torch.randn(count, 10, generator=RANDOM), torch.randint(0, 3, (count,), generator=RANDOM)


TRAIN, VALID = [batch(16) for _ in range(8)], [batch(16), batch(4)]


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))


def teacher() -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))
    return net.eval().requires_grad_(False)


def divergence(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Return the loss of Hinton et al., 2015."""
    expected = softmax(teacher / temperature, 1)
    return kl_div(log_softmax(student / temperature, 1), expected, reduction="batchmean") * temperature**2


def plain(epochs: int = 3) -> tuple[nn.Module, list[tuple[float, float]]]:
    model, expert = student(), teacher()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    told = []
    for _ in range(epochs):
        kls, count, right, seen = 0.0, 0, 0, 0
        for x, y in TRAIN:
            preds = model(x)
            kl = divergence(preds, expert(x))
            adam.zero_grad()
            (kl + cross_entropy(preds, y)).backward()
            adam.step()
            kls, count = kls + kl.item() * len(y), count + len(y)
        with torch.no_grad():
            for x, y in VALID:
                right, seen = right + int((model(x).argmax(1) == y).sum()), seen + len(y)
        told.append((kls / count, right / seen))
    return model, told


def ours(epochs: int = 3) -> tuple[TrainState, list[tuple[float, float]]]:
    expert = teacher()

    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        x, y = batch
        preds = model(x)
        kl = divergence(preds, expert(x))
        return StepOutput(kl + cross_entropy(preds, y), preds, y, parts={"kl": kl})

    adam = optimizer(torch.optim.Adam, lr=1e-3)
    learner = Learner.of(student(), DataLoaders(TRAIN, VALID), task, adam, metrics={"accuracy": accuracy})
    state = learner.fit(epochs, print_stats=False).state
    phases = zip(state.history[::2], state.history[1::2], strict=True)
    return state, [(train.metrics["kl"], valid.metrics["accuracy"]) for train, valid in phases]


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)
