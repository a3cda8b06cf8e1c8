"""What comes up beside the common: a penalty on weights, two optimizers, an optimizer of two passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, StepOutput, TrainState, supervised
from nntrain.update import chain, optimizer
from tests.jobs import check_job

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)
TRAIN: list[Batch] = [
    (torch.randn(32, 10, generator=RANDOM), torch.randint(0, 3, (32,), generator=RANDOM)) for _ in range(8)
]
DATA = DataLoaders(TRAIN, None)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))


def l1(model: nn.Module) -> Tensor:
    return torch.stack([param.abs().sum() for param in model.parameters()]).sum()


def plain_penalty(epochs: int = 2) -> tuple[nn.Module, list[tuple[float, float]]]:
    model = classifier()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    told = []
    for _ in range(epochs):
        losses, penalties = 0.0, 0.0
        for x, y in TRAIN:
            penalty = l1(model)
            loss = cross_entropy(model(x), y) + 1e-3 * penalty
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses, penalties = losses + loss.item() * len(y), penalties + penalty.item() * len(y)
        told.append((losses / (32 * len(TRAIN)), penalties / (32 * len(TRAIN))))
    return model, told


def ours_penalty(epochs: int = 2) -> tuple[TrainState, list[tuple[float, float]]]:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        preds, penalty = model(batch[0]), l1(model)
        loss = cross_entropy(preds, batch[1]) + 1e-3 * penalty
        return StepOutput(loss, preds, batch[1], parts={"l1": penalty})

    adam = optimizer(torch.optim.Adam, lr=1e-2)
    state = Learner.of(classifier(), DATA, task, adam).fit(epochs, print_stats=False).state
    return state, [(stats.loss, stats.metrics["l1"]) for stats in state.history]


def test_a_penalty_on_the_weights() -> None:
    check_job(plain_penalty, ours_penalty)


def plain_two(epochs: int = 2) -> tuple[nn.Module, None]:
    model = classifier()
    muon = torch.optim.Muon([param for name, param in model.named_parameters() if "weight" in name], lr=1e-2)
    adamw = torch.optim.AdamW([param for name, param in model.named_parameters() if "bias" in name], lr=1e-3)
    for _ in range(epochs):
        for x, y in TRAIN:
            loss = cross_entropy(model(x), y)
            muon.zero_grad()
            adamw.zero_grad()
            loss.backward()
            muon.step()
            adamw.step()
    return model, None


def ours_two(epochs: int = 2) -> tuple[TrainState, None]:
    muon = optimizer(torch.optim.Muon, params="*.weight", lr=1e-2)
    update = chain(muon, optimizer(torch.optim.AdamW, params="*.bias", lr=1e-3))
    learner = Learner.of(classifier(), DATA, supervised(cross_entropy), update)
    return learner.fit(epochs, print_stats=False).state, None


def test_two_optimizers_of_one_loss() -> None:
    check_job(plain_two, ours_two)


class SAM(torch.optim.SGD):
    """Sharpness-aware minimisation (Foret et al., 2021): two passes a step, so it takes a closure."""

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override] # it needs one
        with torch.enable_grad():
            loss = closure()
        params = [param for group in self.param_groups for param in group["params"]]
        with torch.no_grad():
            norm = torch.stack([param.grad.norm() for param in params]).norm()
            moves = [param.grad * (0.05 / (norm + 1e-12)) for param in params]
            for param, move in zip(params, moves, strict=True):
                param.add_(move)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for param, move in zip(params, moves, strict=True):
                param.sub_(move)
        super().step()
        return loss


def plain_sam(epochs: int = 2) -> tuple[nn.Module, list[float]]:
    model = classifier()
    sam = SAM(model.parameters(), lr=0.1)
    told = []
    for _ in range(epochs):
        total = 0.0
        for x, y in TRAIN:

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                sam.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                return loss

            total += sam.step(closure).item() * len(y)
        told.append(total / (32 * len(TRAIN)))
    return model, told


def ours_sam(epochs: int = 2) -> tuple[TrainState, list[float]]:
    sam = optimizer(SAM, lr=0.1)
    state = Learner.of(classifier(), DATA, supervised(cross_entropy), sam).fit(epochs, print_stats=False).state
    return state, [stats.loss for stats in state.history]


def test_an_optimizer_of_two_passes() -> None:
    check_job(plain_sam, ours_sam)
