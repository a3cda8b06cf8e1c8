"""Keep an average of the weights (EMA) and evaluate with it after each epoch; average the epochs' weights (SWA).

An eval phase of the fit itself has the weights, not the average. To choose that is left to issue 19; so is SWA.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nntrain import DataLoaders, Learner, evaluate, fit_step, supervised
from nntrain.update import chain, ema, optimizer
from tests.jobs import check_job, check_length

RANDOM = torch.Generator().manual_seed(0)


def batch(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 10, generator=RANDOM), torch.randint(0, 3, (count,), generator=RANDOM)


TRAIN, VALID = [batch(16) for _ in range(8)], [batch(16), batch(16), batch(5)]


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))


def plain(epochs: int = 3) -> tuple[nn.Module, list[float]]:
    model = classifier()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    told = []
    for _ in range(epochs):
        for x, y in TRAIN:
            loss = cross_entropy(model(x), y)
            adam.zero_grad()
            loss.backward()
            adam.step()
            average.update_parameters(model)
        total = 0.0
        with torch.no_grad():
            for x, y in VALID:
                total += cross_entropy(average(x), y).item() * len(y)
        told.append(total / sum(len(y) for _, y in VALID))
    return average.module, told


def ours(epochs: int = 3) -> tuple[nn.Module, list[float]]:
    update = chain(optimizer(torch.optim.Adam, lr=1e-2), ema(0.9))
    learner = Learner.of(classifier(), DataLoaders(TRAIN, None), supervised(cross_entropy), update)
    state = learner.init()
    told = []
    for _ in range(epochs):
        state = fit_step(learner, state, epochs=1).state
        average = state.with_params(dict(state.to_module("ema").named_parameters()))
        told.append(evaluate(learner, average, VALID).loss)
    return state.to_module("ema"), told


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)


def plain_swa(epochs: int = 3) -> nn.Module:
    model = classifier()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    average = AveragedModel(model)
    for _ in range(epochs):
        for x, y in TRAIN:
            loss = cross_entropy(model(x), y)
            adam.zero_grad()
            loss.backward()
            adam.step()
        average.update_parameters(model)
    return average.module


def ours_swa(epochs: int = 3) -> nn.Module:
    adam = optimizer(torch.optim.Adam, lr=1e-2)
    learner = Learner.of(classifier(), DataLoaders(TRAIN, None), supervised(cross_entropy), adam)
    states = [fit_step(learner, learner.init(), epochs=1).state]
    while len(states) < epochs:
        states.append(fit_step(learner, states[-1], epochs=1).state)
    weights = [state.params for state in states]
    return (
        states[-1]
        .with_params({name: torch.stack([one[name] for one in weights]).mean(0) for name in weights[0]})
        .to_module()
    )


def test_an_average_of_states_is_swa() -> None:
    """To rounding: torch's average is a running one."""
    average, expected = ours_swa(), dict(plain_swa().named_parameters())
    for name, param in average.named_parameters():
        torch.testing.assert_close(param, expected[name])
    check_length(ours_swa, plain_swa)
