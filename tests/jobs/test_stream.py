"""Train on an endless stream for so many steps, evaluated every 25; and a policy on data that it makes itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, count

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, IterableDataset

from nntrain import DataLoaders, Learner, StepOutput, TrainState, supervised
from nntrain.data import segments
from nntrain.update import optimizer
from tests.jobs import check_job

Batch = tuple[Tensor, Tensor]
STEPS, EVERY = 65, 25  # not a multiple of it
SLOPE = torch.randn(10, generator=torch.Generator().manual_seed(3))


def made(number: int) -> Batch:
    x = torch.randn(16, 10, generator=torch.Generator().manual_seed(number))
    return x, (x @ SLOPE)[:, None]


class Endless(IterableDataset[Batch]):
    def __iter__(self) -> Iterator[Batch]:
        return map(made, count())


VALID = [made(-1), made(-2)]


def regression() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))


def plain() -> tuple[nn.Module, list[tuple[int, float]]]:
    model = regression()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    told = []
    for step, (x, y) in enumerate(Endless(), 1):
        loss = mse_loss(model(x), y)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % EVERY == 0 or step == STEPS:
            with torch.no_grad():
                valid = sum(mse_loss(model(x), y).item() * len(y) for x, y in VALID)
            told.append((step, valid / sum(len(y) for _, y in VALID)))
        if step == STEPS:
            break
    return model, told


def ours() -> tuple[TrainState, list[tuple[int, float]]]:
    train = segments(DataLoader(Endless(), batch_size=None), batches=EVERY)
    adam = optimizer(torch.optim.Adam, lr=1e-2)
    learner = Learner.of(regression(), DataLoaders(train, VALID), supervised(mse_loss), adam)
    state = learner.fit(steps=STEPS, print_stats=False).state
    steps = accumulate(stats.batches for stats in state.history[::2])
    return state, [(step, stats.loss) for step, stats in zip(steps, state.history[1::2], strict=True)]


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)


def policy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(10, 2)


def played(model: Callable[[Tensor], Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the policy saw, what it did, and its reward: 1 for the side that the first number is on."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(32, 10, generator=random)
    with torch.no_grad():
        action = torch.multinomial(model(x).softmax(1), 1, generator=random)[:, 0]
    return x, action, (action == (x[:, 0] > 0).long()).float()


def plain_reinforce() -> tuple[nn.Module, float]:
    model = policy()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    total = 0.0
    for seed in range(100):
        x, action, reward = played(model, seed)
        loss = (cross_entropy(model(x), action, reduction="none") * (reward - 0.5)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        total += reward.mean().item() * len(x)
    return model, total / (100 * 32)


def ours_reinforce() -> tuple[TrainState, float]:
    def task(model: nn.Module, seed: int) -> StepOutput[None]:
        x, action, reward = played(model, seed)
        loss = (cross_entropy(model(x), action, reduction="none") * (reward - 0.5)).mean()
        return StepOutput(loss, weight=len(x), parts={"reward": reward.mean()})

    adam = optimizer(torch.optim.Adam, lr=1e-2)
    state = Learner.of(policy(), DataLoaders(range(100), None), task, adam).fit(1, print_stats=False).state
    return state, state.history[0].metrics["reward"]


def test_a_policy_that_makes_its_own_data() -> None:
    check_job(plain_reinforce, ours_reinforce)
