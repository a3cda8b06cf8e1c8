"""Train the head of a net whose backbone is frozen for an epoch, then all of it, the backbone at a lower rate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, TrainState, fit_step, supervised
from nntrain.update import optimizer
from tests.jobs import check_job

RANDOM = torch.Generator().manual_seed(0)
TRAIN = [(torch.randn(16, 10, generator=RANDOM), torch.randint(0, 3, (16,), generator=RANDOM)) for _ in range(8)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def plain() -> tuple[nn.Module, None]:
    model = net()
    model.backbone.requires_grad_(False)
    adamw = torch.optim.AdamW(model.head.parameters(), lr=1e-2)
    for epoch in range(3):
        if epoch == 1:
            model.backbone.requires_grad_(True)
            adamw.add_param_group({"params": model.backbone.parameters(), "lr": 1e-3})
        for x, y in TRAIN:
            loss = cross_entropy(model(x), y)
            adamw.zero_grad()
            loss.backward()
            adamw.step()
    return model, None


def ours() -> tuple[TrainState, None]:
    adamw = torch.optim.AdamW
    head = optimizer(adamw, lr=1e-2, params="head.*")
    whole = optimizer(adamw, lr=1e-2, groups={"backbone.*": {"lr": 1e-3}})
    learner = Learner.of(net(), DataLoaders(TRAIN, None), supervised(cross_entropy), head)
    state = fit_step(learner, learner.init(), epochs=1).state
    return fit_step(learner.replace(update=whole), state, epochs=2).state, None


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)


def test_the_head_alone_is_trained_in_the_first_epoch() -> None:
    head = optimizer(torch.optim.AdamW, lr=1e-2, params="head.*")
    learner = Learner.of(net(), DataLoaders(TRAIN, None), supervised(cross_entropy), head)
    begun, trained = learner.init(), learner.fit(1, print_stats=False).state
    moved = {name for name, param in trained.params.items() if not torch.equal(param, begun.params[name])}
    assert moved == {"head.weight", "head.bias"}
