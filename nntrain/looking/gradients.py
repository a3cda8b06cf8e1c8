"""`gradient_flow`: the gradient of each parameter for one batch, at one state."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from nntrain.errors import LossError
from nntrain.looking.passes import first_batch, passed
from nntrain.machine.folding import check_state
from nntrain.machine.learner import Learner
from nntrain.machine.machine import eval_noise, machine_of
from nntrain.task.task import Called, check_output
from nntrain.values.looks import GradientFlow, ParameterGradients
from nntrain.values.output import StepOutput
from nntrain.values.state import TrainState

Batch = TypeVar("Batch")


def gradient_flow(learner: Learner[Batch, Any], state: TrainState, batch: Batch | None = None) -> GradientFlow:
    """Return the gradients of a batch's loss with a state's weights, parameter by parameter, before any update rule.

    The model is in train mode, in the learner's precision; of several objectives it is the sum of their losses. With
    "fp16" the loss is not scaled, so that small gradients may be 0. The state and the learner are what they were: the
    pass is made by a module of its own.

    Args:
        learner: whose task it is; it must not be amid a step.
        state: with the weights, and the key and epoch that rule what is random.
        batch: as it is trained on; by default the first of the train data, in the order of the state's epoch.

    Raises `LossError` for a loss that cannot be trained on, and what the caller's code raises.
    """
    check_state(state)
    machine = machine_of(learner)
    epoch = state.progress.epoch
    given = first_batch(machine, state.key, epoch) if batch is None else batch
    module = state.to_module(train=True).to(machine.workspace.device)

    def run(model: nn.Module, batch: Any) -> StepOutput[Any]:
        with torch.enable_grad():
            return cast(Called[Any], machine.task)(model, batch)

    found = check_output(passed(machine, module, run, given, eval_noise(state.key, epoch, 0)), machine.task, train=True)
    if found.loss is None:  # `check_output` has seen to it
        raise LossError("There is no loss to go backward from.")
    found.loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    trained = {name: param for name, param in module.named_parameters() if param.requires_grad}
    return GradientFlow(
        loss=found.loss.item(),
        params=tuple(_seen(name, param.grad) for name, param in trained.items() if param.grad is not None),
        without=tuple(name for name, param in trained.items() if param.grad is None),
    )


def _seen(name: str, gradient: Tensor) -> ParameterGradients:
    dense = gradient.to_dense() if gradient.layout != torch.strided else gradient
    sizes = dense.abs().float()
    norm, mean, largest = torch.stack([torch.linalg.vector_norm(sizes), sizes.mean(), sizes.max()]).tolist()
    return ParameterGradients(name=name, shape=tuple(gradient.shape), norm=norm, mean=mean, largest=largest)
