"""`summary`: what a model is made of, as a record that prints as a table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from nntrain.errors import ConfigError
from nntrain.looking.layers import layers_of, watched
from nntrain.looking.passes import first_batch, forward_of, forward_of_inputs, passed
from nntrain.machine.folding import check_state
from nntrain.machine.learner import Learner
from nntrain.machine.machine import eval_noise, machine_of
from nntrain.task.supervised import unpacked
from nntrain.values.key import Key
from nntrain.values.looks import columns
from nntrain.values.modules import make_module
from nntrain.values.record import Record
from nntrain.values.state import TrainState
from nntrain.values.trees import tensors_of

Batch = TypeVar("Batch")


class LayerSummary(Record, frozen=True):
    """One layer: its name, its class, the shape of its output, and its own parameters.

    `output` is None where it was not called, or gives no tensor of floats. A parameter that several layers have is
    counted with the first.
    """

    layer: str
    kind: str
    output: tuple[int, ...] | None
    parameters: int
    trained: int


class ModelSummary(Record, frozen=True):
    """What a model is made of.

    `parameters` is how many numbers they are, `trained` those that the learner's update rule trains; of a module by
    itself, those that require a gradient. What is in bytes is the memory of parameters, buffers, the gradients of what
    is trained, what the optimizer and the rules around it remember (None without a state), and the outputs of all
    layers for the batch, of which backward needs most (None where no batch was passed through).
    """

    model: str
    layers: tuple[LayerSummary, ...]
    parameters: int
    trained: int
    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    optimizer_bytes: int | None = None
    output_bytes: int | None = None

    @property
    def share_trained(self) -> float:
        """The share of the parameters that is trained; 0 where there is none."""
        return self.trained / self.parameters if self.parameters else 0.0

    def __str__(self) -> str:
        rows = [
            (
                one.layer,
                one.kind,
                "" if one.output is None else str(list(one.output)),
                f"{one.parameters:,}",
                _said_trained(one),
            )
            for one in self.layers
        ]
        memory = {
            "parameters": self.parameter_bytes,
            "buffers": self.buffer_bytes,
            "gradients": self.gradient_bytes,
            "optimizer": self.optimizer_bytes,
            "outputs": self.output_bytes,
        }
        said = ", ".join(f"{name} {_size(size)}" for name, size in memory.items() if size is not None)
        return "\n".join(
            [
                columns(("layer", "kind", "output", "parameters", "trained"), rows, left=3),
                f"{self.model}: {self.parameters:,} parameters, {self.trained:,} of them trained "
                f"({self.share_trained:.1%})",
                f"memory: {said}",
            ]
        )


@overload
def summary(
    model: Learner[Batch, Any], state: TrainState | None = None, *, batch: Batch | None = None
) -> ModelSummary: ...
@overload
def summary(model: nn.Module, *, batch: object = None) -> ModelSummary: ...
def summary(
    model: Learner[Any, Any] | nn.Module, state: TrainState | None = None, *, batch: object = None
) -> ModelSummary:
    """Return what a learner's model is made of, or a module.

    One batch is passed through a copy of it, in eval mode, for the outputs' shapes. The model, and the state if one is
    given, are what they were.

    Args:
        model: a learner, or a module by itself.
        state: of the learner, whose optimizer's memory is counted.
        batch: as it is trained on; for a learner by default the first of its train data. For a module the model's
            inputs will do: a tensor, a tuple, or a mapping of keyword inputs; without them no shape is known.

    Raises `ConfigError` for what is neither, and what the model raises.
    """
    if isinstance(model, nn.Module):
        if state is not None:
            raise ConfigError("summary: a state is a learner's. Give summary(learner, state), or the module alone.")
        copied = make_module(model, 0).eval()
        outputs: dict[str, Tensor] = {}
        if batch is not None:
            with torch.no_grad(), watched(_shown(copied), lambda name, _, found: outputs.setdefault(name, found)):
                forward_of_inputs(unpacked)(copied, batch)
        names = [name for name, param in copied.named_parameters() if param.requires_grad]
        return _summary(copied, names, outputs if batch is not None else None, None)
    machine = machine_of(model)
    if state is None:
        key, epoch = Key(seed=0), 0
        made = make_module(machine.workspace.template, 0).to(machine.workspace.device).eval()
    else:
        check_state(state)
        key, epoch = state.key, state.progress.epoch
        made = state.to_module().to(machine.workspace.device)
    given = first_batch(machine, key, epoch) if batch is None else batch
    outputs = {}
    with watched(_shown(made), lambda name, _, found: outputs.setdefault(name, found)):
        passed(machine, made, forward_of(machine), given, eval_noise(key, epoch, 0))
    trained = [name for name, param in machine.workspace.optimizer.trained.items() if param.requires_grad]
    return _summary(made, trained, outputs, state)


def _shown(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with none within, and those with parameters of their own."""
    leaves = layers_of(module, None, "summary")
    every = layers_of(module, ("*",), "summary")
    return {
        name: one
        for name, one in every.items()
        if name in leaves or next(one.parameters(recurse=False), None) is not None
    }


def _summary(
    module: nn.Module, trained: Collection[str], outputs: dict[str, Tensor] | None, state: TrainState | None
) -> ModelSummary:
    params = dict(module.named_parameters())
    written = {id(params[name]) for name in trained}
    left = {id(param) for param in params.values()}

    def layers() -> Iterator[LayerSummary]:
        for name, layer in _shown(module).items():
            own = [param for param in layer.parameters(recurse=False) if id(param) in left]
            left.difference_update(map(id, own))
            found = None if outputs is None else outputs.get(name)
            yield LayerSummary(
                layer=name,
                kind=type(layer).__name__,
                output=None if found is None else tuple(found.shape),
                parameters=_count(own),
                trained=_count(param for param in own if id(param) in written),
            )

    kept = None if state is None else state.tensors.snapshot().optim
    return ModelSummary(
        model=type(module).__name__,
        layers=tuple(layers()),
        parameters=_count(params.values()),
        trained=_count(params[name] for name in {*trained}),
        parameter_bytes=_bytes(params.values()),
        buffer_bytes=_bytes(module.buffers()),
        gradient_bytes=_bytes(params[name] for name in {*trained}),
        optimizer_bytes=None if kept is None else _bytes(tensors_of([dict(kept.state), dict(kept.rules)])),
        output_bytes=None if outputs is None else _memory(outputs.values()),
    )


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _memory(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take, those that several share once."""
    found = {
        one.untyped_storage().data_ptr() if one.layout == torch.strided else id(one): _bytes([one])
        if one.layout != torch.strided
        else one.untyped_storage().nbytes()
        for one in tensors
    }
    return sum(found.values())


def _said_trained(layer: LayerSummary) -> str:
    if not layer.parameters:
        return ""
    return {0: "no", layer.parameters: "yes"}.get(layer.trained, f"{layer.trained:,}")


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
