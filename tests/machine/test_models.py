"""Models of all kinds: those that train as a plain loop trains them, and those that are refused before they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import DataLoaders, Learner, TrainState, advance, epoch_step, fit_step, state_before
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError
from nntrain.values.record import evolved

SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 3, generator=SOURCE), torch.randn(4, 3, generator=SOURCE)) for _ in range(3)]


class Assigns(nn.Module):
    """Puts another tensor in its buffer's place at each pass, as a script may, too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + 1
        found: Tensor = self.linear(x) / (1 + self.seen)
        return found


class Expanded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("mask", torch.ones(1).expand(3))
        self.mask: Tensor
        self.scale = nn.Parameter(torch.ones(1).expand(3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x * self.mask) * self.scale
        return found


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))


def partly_frozen() -> nn.Module:
    model = torch.jit.script(normed())
    next(iter(model.parameters())).requires_grad_(False)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "scripted": lambda: torch.jit.script(normed()),
    "scripted within": lambda: nn.Sequential(torch.jit.script(normed()), nn.Linear(3, 3)),
    "scripted, assigns": lambda: torch.jit.script(Assigns()),
    "scripted, partly frozen": partly_frozen,
    "expanded": Expanded,
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]()


def learner_of(model: Any, **more: Any) -> Learner[tuple[Tensor, Tensor]]:
    arguments = {"optim_class": torch.optim.Adam, "lr": 0.01, **more}
    return Learner(model, DataLoaders(DATA, DATA), mse_loss, mse_loss, **arguments)


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


@pytest.mark.parametrize("factory", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_is_kept_and_comes_back(name: str, factory: bool, tmp_path: Any) -> None:
    learner = learner_of((lambda: made(name)) if factory else made(name))
    state, kept = learner.init(epochs=2), []
    while state.progress.at != "finished":
        kept.append((state, {**state.params, **state.buffers}))
        state = advance(learner, state).state
    for one, values in kept:
        assert all(torch.equal(value, {**one.params, **one.buffers}[key]) for key, value in values.items())
    assert fit_step(learner, kept[4][0]).state == state
    last = list(state.params)[-1]
    assert not torch.equal(state.params[last], kept[0][1][last])
    save(state, tmp_path / "it")
    assert load(tmp_path / "it", learner) == state
    module = state.to_module()
    assert {key: one.requires_grad for key, one in module.named_parameters()} == {
        key: one.requires_grad for key, one in made(name).named_parameters()
    }
    for key, tensor in tensors(module):
        assert torch.equal(tensor, {**state.params, **state.buffers}[key])


@pytest.mark.parametrize("name", ["scripted", "scripted, assigns", "expanded"])
def test_it_trains_to_the_bits_of_a_plain_loop(name: str) -> None:
    # Dropout draws from a seed of the step's, so it is left out of the one that has it.
    torch.manual_seed(0)
    plain = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))) if name == "scripted" else made(name)
    data = [(x, torch.zeros(4, 4)) for x, _ in DATA] if name == "scripted" else DATA
    learner = Learner(plain, DataLoaders(data, data), mse_loss, mse_loss, torch.optim.SGD, 0.1)
    state = learner.fit(2, print_stats=False).state
    mine = learner.init().to_module(train=True)
    optimizer = torch.optim.SGD(mine.parameters(), 0.1)
    for _ in range(2):
        for x, y in data:
            optimizer.zero_grad()
            mse_loss(mine(x), y).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            optimizer.step()
    assert all(torch.equal(tensor, {**state.params, **state.buffers}[key]) for key, tensor in tensors(mine))


def test_a_module_comes_in_eval_mode_unless_it_is_to_train() -> None:
    state = learner_of(normed()).fit(1, print_stats=False).state
    assert {one.training for one in state.to_module().modules()} == {False}
    assert {one.training for one in state.to_module(train=True).modules()} == {True}


def test_a_frozen_model_is_evaluated_and_not_trained() -> None:
    learner = learner_of(normed().requires_grad_(False))
    state = learner.init(epochs=1)
    there = evolved(state, progress=evolved(state.progress, at="before_epoch", phase="eval"))
    stats = epoch_step(learner, there).state.history
    model = state.to_module()
    with torch.no_grad():
        right = sum(mse_loss(model(x), y).item() for x, y in DATA) / 3
    assert [one.phase for one in stats] == ["eval"]
    assert stats[0].loss == pytest.approx(right)
    with pytest.raises(ConfigError, match="nothing to train") as caught:
        fit_step(learner, state)
    before = state_before(caught.value)
    assert before is not None
    assert before.tensors == state.tensors


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        learner_of(nn.Flatten()).init()


class Unfreezes(torch.optim.SGD):
    """Takes a group more at its second step."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        if self.steps == 2:
            self.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
        return super().step(closure)


@pytest.mark.parametrize("lr", [0.1, lambda step: 0.1])
def test_a_parameter_group_that_is_added_in_training_is_refused_and_the_state_before_is_whole(lr: Any) -> None:
    learner = learner_of(normed(), optim_class=Unfreezes, lr=lr)
    states: list[TrainState] = []
    with pytest.raises(ConfigError, match="add_param_group was called in training"):
        learner.replace(sinks=[lambda transition: states.append(transition.state)]).fit(1, print_stats=False)
    assert states[-1].progress.step == 1
    assert states[-1].params
