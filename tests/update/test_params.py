"""`optimizer(params=...)`: the rest of the model is in the graph as in a plain loop, and in nothing of the update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import DataLoaders, Learner, Objective, fit_step, supervised
from nntrain.errors import ConfigError
from nntrain.update import UpdateRule, accumulate, chain, clip_norm, ema, optimizer

Batch = tuple[Tensor, Tensor]
TRAIN = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(6)]
HEAD = optimizer(torch.optim.Adam, lr=0.1, params="1.*")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def learner_of(update: UpdateRule, model: nn.Module) -> Learner[Batch]:
    return Learner.of(model, DataLoaders(TRAIN), supervised(mse_loss), update)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_rest_changes_no_bit_of_what_is_trained(frozen: bool) -> None:
    plain, head = net(), torch.optim.Adam(params := list(net()[1].parameters()), lr=0.1)
    plain[1].weight, plain[1].bias = params
    for first in range(0, 6, 2):
        head.zero_grad()
        for inputs, target in TRAIN[first : first + 2]:
            torch.autograd.backward(mse_loss(plain(inputs), target) / 2)
        norm = torch.nn.utils.get_total_norm([one.grad for one in params if one.grad is not None])
        assert norm > 0.1
        torch.nn.utils.clip_grad_norm_(params, 0.1)
        head.step()
    model = net()
    model[0].requires_grad_(not frozen)
    learner = learner_of(chain(accumulate(2), clip_norm(0.1), HEAD, ema(0.5)), model)
    state = learner.fit(1, print_stats=False).state
    for name, param in plain.named_parameters():
        assert torch.equal(state.params[name], param), name
    averaged = state.to_module("ema").state_dict()
    assert torch.equal(averaged["0.weight"], plain.get_parameter("0.weight"))
    assert not torch.equal(averaged["1.weight"], plain.get_parameter("1.weight"))


def test_memory_is_of_what_is_trained_alone() -> None:
    learner = learner_of(chain(accumulate(4), HEAD), net())
    cut = fit_step(learner.replace(dls=DataLoaders(TRAIN[:5])), learner.init(), epochs=1).state
    names: set[str] = set()
    cut.tensors.read(lambda snapshot: names.update(snapshot.optim.state))
    assert names == {"1.weight", "1.bias"}


def test_patterns_of_frozen_parameters_alone_are_told() -> None:
    model = net()
    model[1].requires_grad_(False)
    with pytest.raises(ConfigError, match=r"The update trains 1.weight, 1.bias alone, of which none requires a grad"):
        learner_of(HEAD, model).fit(1, print_stats=False)
    rules: list[Any] = [optimizer(torch.optim.SGD, lr=0.1, params=params) for params in ("0.*", "1.*")]
    both = [Objective(name, supervised(mse_loss), rule) for name, rule in zip("ab", rules, strict=True)]
    with pytest.raises(ConfigError, match=r"The update of objective 'b' trains 1.weight"):
        Learner.of(model, DataLoaders(TRAIN), objectives=both).fit(1, print_stats=False)
