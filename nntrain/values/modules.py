"""Making modules: the workspace's own, and those handed out of a state."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn, strided
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from nntrain.errors import ConfigError
from nntrain.values.calls import call_problem, function_name
from nntrain.values.randomness import seeded
from nntrain.values.reach import tensors_within
from nntrain.values.shards import whole
from nntrain.values.tensors import ModelSource, Snapshot


def check_initialised(module: nn.Module) -> None:
    """Refuse a module with lazy parameters that no input has shaped yet, or with tensors that have no memory."""
    named = [*module.named_parameters(), *module.named_buffers()]
    lazy = [name for name, tensor in named if isinstance(tensor, (UninitializedParameter, UninitializedBuffer))]
    if lazy:
        raise ConfigError(
            f"The model has uninitialised lazy parameters: {', '.join(lazy)}. Run one batch through it first "
            f"(with torch.no_grad(): model(inputs)), so that their shapes are known."
        )
    meta = [name for name, tensor in named if tensor.is_meta]
    if meta:
        raise ConfigError(
            f"The model has tensors on the meta device, without memory: {', '.join(meta):.200}. Give them memory with "
            f"model.to_empty(device=...), and then values, as by model.load_state_dict(...)."
        )


def check_held(module: nn.Module) -> None:
    """Refuse a module whose `state_dict` has more than parameters and buffers: a state would not hold that."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    names, held = {name for name, _ in named}, {_place(tensor) for _, tensor in named}
    more = [
        name
        for name, value in module.state_dict().items()
        if name not in names and not (isinstance(value, Tensor) and _place(value) in held)
    ]
    if more:
        raise ConfigError(
            f"The model's state_dict() has {', '.join(more)} beside its parameters and buffers (get_extra_state, or a "
            f"hook of state_dict). A state holds parameters and buffers only: what changes in training would not be "
            f"saved, and not gone back to. Keep it in a buffer: register_buffer('count', torch.zeros(()))."
        )


def _place(tensor: Tensor) -> object:
    """Return where a tensor's elements lie."""
    return (tensor.untyped_storage()._cdata, tensor.storage_offset()) if tensor.layout == strided else id(tensor)


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
        raise ConfigError(f"model is {' '.join(repr(model).split()):.80}; {expected}.")
    problem = call_problem(model)
    if problem is not None:
        raise ConfigError(f"model {function_name(model)} cannot be called without arguments: {problem}; {expected}.")


def make_module(template: ModelSource, bits: int) -> nn.Module:
    """Make a module of one's own: a copy of `template`, or what the factory makes under a seed of `bits`."""
    if isinstance(template, nn.Module):
        check_initialised(template)
        check_held(template)
        try:
            return _copied(template)
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
    check_held(module)
    _check_new(module, template)
    return _with_own_memory(module)


def _check_new(module: nn.Module, factory: Callable[[], nn.Module]) -> None:
    """Refuse a module with tensors that its factory still holds: they would be trained, and be in other modules too."""
    names = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    for where, tensor in tensors_within(factory):
        if id(tensor) in names:
            raise ConfigError(
                f"The model factory returned a module that is not its own: {names[id(tensor)]} is {where} of the "
                f"factory. Make a new module at each call, or pass the module itself, which is copied: "
                f"Learner(model, ...)."
            )


def _copied(template: nn.Module) -> nn.Module:
    """Return a copy of a module. Under `no_grad`: TorchScript records how it copies, and forgets what is trained."""
    with torch.no_grad():
        module = copy.deepcopy(template)
    for mine, theirs in zip(module.parameters(), template.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return _with_own_memory(module)


def _with_own_memory(module: nn.Module) -> nn.Module:
    """Return the module, with what has elements that share memory copied: an expanded tensor cannot be written to."""
    for home in module.modules():
        for key, buffer in home._buffers.items():
            if buffer is not None and _is_expanded(buffer):
                home._buffers[key] = buffer.clone(memory_format=torch.contiguous_format)
    for param in module.parameters():
        if _is_expanded(param):
            param.data = param.data.clone(memory_format=torch.contiguous_format)
    return module


def _is_expanded(tensor: Tensor) -> bool:
    return tensor.layout == strided and 0 in tensor.stride()


def module_with(template: ModelSource, snapshot: Snapshot, *, train: bool) -> nn.Module:
    """Make a module that holds copies of the snapshot's parameters and buffers, on their device, without gradients.

    It is in training mode if it is to `train`, else in eval mode.
    """
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
                tensor.copy_(whole(theirs[name]))
    module.zero_grad(set_to_none=True)
    return module.train(train)
