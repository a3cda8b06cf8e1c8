"""Search a grid of hyperparameters: a short fit for each, in one process or in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, accuracy
from tests.jobs import check_length

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(256, 10, generator=RANDOM)
Y = (X[:, 0] + X[:, 1] > 0).long()
TRAIN, VALID = [(X[at : at + 32], Y[at : at + 32]) for at in range(0, 192, 32)], [(X[192:], Y[192:])]
GRID = [(lr, width) for lr in (1e-1, 1e-2, 1e-3) for width in (4, 16)]
Found = tuple[float, float, int]


def classifier(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 2))


def plain() -> list[Found]:
    found = []
    for lr, width in GRID:
        model = classifier(width)
        adamw = torch.optim.AdamW(model.parameters(), lr=lr)
        for _ in range(2):
            for x, y in TRAIN:
                loss = cross_entropy(model(x), y)
                adamw.zero_grad()
                loss.backward()
                adamw.step()
        with torch.no_grad():
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in VALID)
        found.append((right / sum(len(y) for _, y in VALID), lr, width))
    return found


BASE = Learner(classifier(1), DataLoaders(TRAIN, VALID), cross_entropy, {"accuracy": accuracy}, torch.optim.AdamW, 0.1)


def ours() -> list[Found]:
    found = []
    for lr, width in GRID:
        history = BASE.replace(model=classifier(width), lr=lr).fit(2, print_stats=False).state.history
        found.append((history[-1].metrics["accuracy"], lr, width))
    return found


def test_the_same_figures_as_the_plain_loop() -> None:
    assert ours() == plain()
    check_length(ours, plain)


def test_threads_find_the_same() -> None:
    def loss(lr: float) -> float:
        return BASE.replace(lr=lr).fit(2, print_stats=False).state.history[-1].loss

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(loss, [1e-1, 1e-2, 1e-1])) == [loss(1e-1), loss(1e-2), loss(1e-1)]
