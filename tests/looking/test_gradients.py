"""The gradients of each parameter are those of a hand-written backward pass, and nothing is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, StepOutput, fit_step
from nntrain.errors import LossError
from nntrain.looking import gradient_flow
from nntrain.update import optimizer
from tests.looking.setting import DATA, Net, learner_of, make_model


def test_they_are_those_of_a_hand_written_backward_pass() -> None:
    learner = learner_of()
    state, kept = (learner_of().fit(1, print_stats=False).state for _ in range(2))
    found = gradient_flow(learner, state, DATA[1])
    model = state.to_module(train=True)
    loss = cross_entropy(model(DATA[1][0]), DATA[1][1])
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    assert found.loss == pytest.approx(loss.item())
    assert [one.name for one in found.params] == [name for name, _ in model.named_parameters()]
    for one, param in zip(found.params, model.parameters(), strict=True):
        assert param.grad is not None
        assert one.shape == tuple(param.shape)
        assert one.norm == pytest.approx(param.grad.norm().item())
        assert one.mean == pytest.approx(param.grad.abs().mean().item())
        assert one.largest == pytest.approx(param.grad.abs().max().item())
    grads = [param.grad for param in model.parameters() if param.grad is not None]
    assert found.norm == pytest.approx(torch.nn.utils.get_total_norm(grads).item())
    assert "body.0.weight" in str(found)
    assert state == kept
    assert gradient_flow(learner, state) == gradient_flow(learner, state, DATA[0])
    assert fit_step(learner, state, 1).state == fit_step(learner_of(), kept, 1).state


def test_what_is_frozen_is_left_out_and_what_gets_no_gradient_is_named() -> None:
    def task(model: Net, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        preds = model.between(model.body(batch[0]).flatten(1))
        return StepOutput(preds.square().mean(), preds)

    model = make_model()
    model.body.requires_grad_(False)
    learner: Learner[Any, Any] = Learner.of(model, DataLoaders(DATA, None), task, optimizer(torch.optim.SGD, lr=0.1))
    found = gradient_flow(learner, learner.init())
    assert [one.name for one in found.params] == ["between.weight", "between.bias"]
    assert found.without == ("head.weight", "head.bias")
    assert "none" in str(found)


def test_a_loss_without_a_gradient_is_refused() -> None:
    learner = learner_of(loss_fn=lambda preds, target: preds.detach().mean())
    with pytest.raises(LossError, match="without a gradient"):
        gradient_flow(learner, learner.init())
