"""Making modules: the workspace's own, and those handed out of a state."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from nntrain.errors import ConfigError
from nntrain.values.calls import call_problem, function_name
from nntrain.values.randomness import seeded
from nntrain.values.tensors import ModelSource, Snapshot


def check_initialised(module: nn.Module) -> None:
    """Refuse a module with lazy parameters that no input has shaped yet."""
    lazy = [
        name
        for tensors in (module.named_parameters(), module.named_buffers())
        for name, tensor in tensors
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer))
    ]
    if lazy:
        raise ConfigError(
            f"The model has uninitialised lazy parameters: {', '.join(lazy)}. Run one batch through it first "
            f"(with torch.no_grad(): model(inputs)), so that their shapes are known."
        )


def check_model(model: object) -> None:
    """Raise `ConfigError` for what is no module, and no function of no arguments that may make one."""
    if isinstance(model, nn.Module):
        check_initialised(model)
        return
    expected = "expected a torch.nn.Module, or a function of no arguments that makes one"
    if isinstance(model, type):
        raise ConfigError(
            f"model is the class {model.__name__}; {expected}. Pass {model.__name__}(...), or lambda: "
            f"{model.__name__}(...)."
        )
    if not callable(model):
        raise ConfigError(f"model is {model!r:.80}; {expected}.")
    problem = call_problem(model)
    if problem is not None:
        raise ConfigError(f"model {function_name(model)} cannot be called without arguments: {problem}; {expected}.")


def make_module(template: ModelSource, bits: int) -> nn.Module:
    """Make a module of one's own: a copy of `template`, or what the factory makes under a seed of `bits`."""
    if isinstance(template, nn.Module):
        check_initialised(template)
        try:
            return copy.deepcopy(template)
        except RuntimeError as error:
            raise ConfigError(
                f"The model {type(template).__name__} cannot be copied ({error}). "
                f"Pass a factory instead of a module: Learner(lambda: make_model(), ...)."
            ) from error
    with seeded(bits):
        module: object = template()
    if not isinstance(module, nn.Module):
        raise ConfigError(f"The model factory returned {type(module).__name__}, expected a torch.nn.Module.")
    check_initialised(module)
    return module


def module_with(template: ModelSource, snapshot: Snapshot) -> nn.Module:
    """Make a module that holds copies of the snapshot's parameters and buffers, on their device, without gradients."""
    module = make_module(template, 0)
    device = next((tensor.device for tensor in (*snapshot.params.values(), *snapshot.buffers.values())), None)
    if device is not None:
        module = module.to(device)
    with torch.no_grad():
        for mine, theirs in (
            (dict(module.named_parameters()), snapshot.params),
            (dict(module.named_buffers()), snapshot.buffers),
        ):
            for name, tensor in mine.items():
                tensor.copy_(theirs[name])
    module.zero_grad(set_to_none=True)
    return module
