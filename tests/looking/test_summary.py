"""The summary counts what a hand-written count counts, of a learner's model or of a module, and touches neither."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, Objective, StepOutput, fit_step, supervised
from nntrain.errors import ConfigError
from nntrain.looking import summary
from nntrain.update import optimizer
from nntrain.values.bits import same_bits
from tests.looking.setting import DATA, Net, learner_of, make_model


def test_a_learner_s_model_with_its_shapes_its_share_trained_and_its_memory() -> None:
    model = make_model()
    learner = Learner.of(
        model,
        DataLoaders(DATA, None),
        supervised(cross_entropy),
        optimizer(torch.optim.Adam, lr=0.01, params=["between.*", "head.*"]),
    )
    found = summary(learner)
    count = sum(param.numel() for param in model.parameters())
    own = [*model.between.parameters(), *model.head.parameters()]
    trained = sum(param.numel() for param in own)
    assert (found.model, found.parameters, found.trained) == ("Net", count, trained)
    assert found.share_trained == trained / count
    assert (found.parameter_bytes, found.gradient_bytes) == (4 * count, 4 * trained)
    assert found.buffer_bytes == sum(one.numel() * one.element_size() for one in model.buffers())
    assert [(one.layer, one.kind, one.output, one.parameters, one.trained) for one in found.layers] == [
        ("body.0", "Conv2d", (6, 4, 4, 4), 40, 0),
        ("body.1", "BatchNorm2d", (6, 4, 4, 4), 8, 0),
        ("relu", "ReLU", (6, 4, 4, 4), 0, 0),
        ("between", "Linear", (6, 8), 520, 520),
        ("dropout", "Dropout", (6, 8), 0, 0),
        ("head", "Linear", (6, 3), 27, 27),
    ]
    # In eval dropout gives what it is given, and the ReLU writes in place: four outputs have memory of their own.
    assert found.output_bytes == 4 * 6 * (64 + 64 + 8 + 3)
    assert found.optimizer_bytes is None
    state = learner.fit(1, print_stats=False).state
    moments = [(one, one, torch.zeros(())) for one in own]  # Adam's two, and its count of steps
    kept = sum(one.numel() * one.element_size() for three in moments for one in three)
    assert summary(learner, state).optimizer_bytes == kept
    assert "body.1   BatchNorm2d  [6, 4, 4, 4]" in str(found)
    assert f"Net: {count} parameters, {trained} of them trained ({trained / count:.1%})" in str(found)


def test_nothing_is_touched() -> None:
    learner = learner_of(dropout=0.5)
    state, kept = (learner_of(dropout=0.5).fit(1, print_stats=False).state for _ in range(2))
    before = torch.get_rng_state()
    summary(learner, state)
    assert state == kept
    assert torch.equal(before, torch.get_rng_state())
    assert fit_step(learner, state, 1).state == fit_step(learner_of(dropout=0.5), kept, 1).state


def test_a_module_by_itself() -> None:
    model = make_model().train()
    model.body.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    found = summary(model, batch=DATA[0][0])
    assert found.layers[0].output == (6, 4, 4, 4)
    assert found.trained == found.parameters - 48
    assert same_bits(dict(before), dict(model.state_dict()))
    assert model.training
    assert not any(one._forward_hooks for one in model.modules())
    assert [one.output for one in summary(model).layers] == [None] * 6
    assert summary(model).output_bytes is None


class Tied(nn.Module):
    """One weight for two layers, and a parameter that no layer has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.head(self.embed(tokens) * self.scale)
        return found


def test_a_tied_parameter_is_counted_once_and_one_of_the_model_itself_too() -> None:
    found = summary(Tied(), batch=torch.tensor([[1, 2]]))
    assert found.parameters == 7 * 4 + 4 == sum(one.parameters for one in found.layers)
    assert [(one.layer, one.parameters) for one in found.layers] == [("model", 4), ("embed", 28), ("head", 0)]


def test_of_several_objectives_what_each_trains_is_counted() -> None:
    def task(model: Net, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        preds = model(batch[0])
        return StepOutput(cross_entropy(preds, batch[1]), preds)

    sgd: Any = torch.optim.SGD
    objectives = [
        Objective(name, task, optimizer(sgd, lr=0.1, params=pattern))
        for name, pattern in (("one", "head.*"), ("other", "between.*"))
    ]
    learner: Learner[Any, Any] = Learner.of(make_model(), DataLoaders(DATA, None), objectives=objectives)
    assert summary(learner).trained == 520 + 27


def test_what_has_no_summary_is_refused() -> None:
    with pytest.raises(ConfigError, match="Got str where a Learner is expected"):
        summary("model")  # type: ignore[call-overload] # the mistake
    with pytest.raises(ConfigError, match="a state is a learner's"):
        summary(make_model(), learner_of().init())  # type: ignore[call-overload] # the mistake
    with pytest.raises(ConfigError, match="lazy"):
        summary(nn.LazyLinear(3))
