"""Train an encoder on two views of each sample (SimCLR): no target, and a loss over the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from nntrain import DataLoaders, Learner, StepOutput, TrainState
from nntrain.update import optimizer
from tests.jobs import check_job

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)
TRAIN: list[Batch] = [(torch.randn(16, 10, generator=RANDOM), torch.randn(16, 10, generator=RANDOM)) for _ in range(10)]


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 8))


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Return the loss of Chen et al., 2020: each view is to find the other among all."""
    views = normalize(torch.cat([first, second]))
    scores = (views @ views.T / temperature).masked_fill(torch.eye(len(views), dtype=torch.bool), -1e9)
    count = len(first)
    return cross_entropy(scores, torch.cat([torch.arange(count, 2 * count), torch.arange(count)]))


def plain(epochs: int = 3) -> tuple[nn.Module, list[float]]:
    model = encoder()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    told = []
    for _ in range(epochs):
        total = 0.0
        for batch in TRAIN:
            loss = nt_xent(*model(torch.cat(batch)).chunk(2))
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item()
        told.append(total / len(TRAIN))
    return model, told


def ours(epochs: int = 3) -> tuple[TrainState, list[float]]:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        views = model(torch.cat(batch))
        return StepOutput(nt_xent(*views.chunk(2)), views, weight=1)

    adam = optimizer(torch.optim.Adam, lr=1e-3)
    state = Learner.of(encoder(), DataLoaders(TRAIN, None), task, adam).fit(epochs, print_stats=False).state
    return state, [stats.loss for stats in state.history]


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)


def byol() -> nn.ModuleDict:
    """Return an encoder, a predictor of one view's code from the other's, and a target: a slow copy of the encoder."""
    return nn.ModuleDict({"online": encoder(), "predictor": nn.Linear(8, 8), "target": encoder().requires_grad_(False)})


def moved(target: nn.Module, online: nn.Module, share: float = 0.05) -> None:
    """Move the target nearer to the encoder."""
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.lerp_(fast, share)


def plain_byol(epochs: int = 3) -> tuple[nn.Module, list[float]]:
    model = byol()
    adam = torch.optim.Adam([*model["online"].parameters(), *model["predictor"].parameters()], lr=1e-3)
    told = []
    for _ in range(epochs):
        total = 0.0
        for first, second in TRAIN:
            moved(model["target"], model["online"])
            preds = model["predictor"](model["online"](first))
            loss = -cosine_similarity(preds, model["target"](second)).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item()
        told.append(total / len(TRAIN))
    return model, told


def ours_byol(epochs: int = 3) -> tuple[TrainState, list[float]]:
    def task(model: nn.ModuleDict, batch: Batch) -> StepOutput[Tensor]:
        moved(model["target"], model["online"])
        preds = model["predictor"](model["online"](batch[0]))
        loss = -cosine_similarity(preds, model["target"](batch[1])).mean()
        return StepOutput(loss, preds, weight=1)

    adam = optimizer(torch.optim.Adam, lr=1e-3)
    state = Learner.of(byol(), DataLoaders(TRAIN, None), task, adam).fit(epochs, print_stats=False).state
    return state, [stats.loss for stats in state.history]


def test_a_target_that_the_task_moves() -> None:
    check_job(plain_byol, ours_byol)
