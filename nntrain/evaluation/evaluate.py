"""`evaluate`, `predict` and `update_bn`: what a task makes of data with a state's weights, beside any fit.

The first two bring the state's weights into the learner's live tensors, as a step from it would. All leave every value
what it was; they publish no event, ask no subscriber and tell no sink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Generic, Never, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nntrain.data.divided import undivided
from nntrain.data.loaders import Loader, as_loader, on_device
from nntrain.data.stream import Stream
from nntrain.errors import ConfigError, DataError
from nntrain.live.inputs import Inputs
from nntrain.live.precision import autocasting
from nntrain.live.workspace import Workspace
from nntrain.machine.folding import check_state, fold
from nntrain.machine.learner import Learner
from nntrain.machine.machine import Machine, eval_noise, machine_of
from nntrain.sinks.news import News
from nntrain.subscribers.asking import listeners
from nntrain.task.batches import to_be_changed
from nntrain.task.carrying import Carried, going_on
from nntrain.task.prediction import Predict, predicting
from nntrain.task.supervised import Supervised, Unpacked
from nntrain.task.task import Called
from nntrain.values.history import EpochStats, History
from nntrain.values.output import StepOutput
from nntrain.values.progress import Progress
from nntrain.values.randomness import seed_all
from nntrain.values.record import evolved
from nntrain.values.state import TrainState, remember_state
from nntrain.values.sums import Sums
from nntrain.values.tensors import Tensors
from nntrain.values.trees import detached, to_device

Batch = TypeVar("Batch")
Preds = TypeVar("Preds")


@dataclass(frozen=True)
class _Alone(Generic[Batch]):
    """A machine that nobody listens to, in a learner's place."""

    machine: Machine[Batch]


def evaluate(
    learner: Learner[Batch, Any],
    state: TrainState,
    loader: Iterable[Batch] | Loader[Batch] | str | None = None,
    *,
    weights: str | None = None,
) -> EpochStats:
    """Return the statistics of data with a state's weights: what the eval phase of a fit has, bit for bit.

    The state may be from anywhere: another learner of the same model, a file, the middle of a fit. It is what it was
    afterwards, and so is the training: the next step from it is the same. Subscribers are not asked, sinks not told.

    Args:
        learner: whose model, task and metrics; it must not be amid a step: a subscriber or sink of its own takes
            `learner.replace()`.
        state: with the weights, and the key and epoch that rule what is random.
        loader: the data; by default the learner's `dls.valid`. Of several sets by name, the name of one.
        weights: the name of an update rule whose average is taken for the parameters, like "ema".

    Raises `ConfigError` where it is not clear which data, or where no such rule keeps an average, `BusyError` amid a
    step of the learner, and what the caller's code raises; `nntrain.state_before(error)` is then the state.
    """
    check_state(state)
    machine = machine_of(learner)
    name, stream = _stream_of(machine, loader)
    alone = replace(
        machine,
        streams={name: machine.divided(stream)},
        heard_by=listeners(()),
        sinks=(),
        monitors=replace(machine.monitors, read=()),
        news=News(),
    )
    place = Progress(at="batch", phase="eval", data=name, epoch=_epoch_of(state.progress), step=state.progress.step)
    seen = state
    if weights is not None:
        seen, alone.eval_weights = state.with_averages(weights), ()
    cell = [evolved(seen, progress=place, sums=Sums(), history=History(), logged=(), loaded=())]
    del seen
    try:
        outcome = fold(_Alone(alone), cell, lambda step: step.state.progress.at == "after_epoch")
    except BaseException as error:
        remember_state(error, state)
        raise
    return outcome.state.history[-1]


def predict(
    learner: Learner[Batch, Preds],
    state: TrainState,
    loader: Iterable[object] | Loader[object],
    *,
    unpack: Callable[[Never], Unpacked] | None = None,
    weights: str | None = None,
) -> Iterator[Preds]:
    """Return an iterator over the predictions of each batch of a loader, in order, made as they are asked for.

    The model is in eval mode, on the learner's device, with the state's weights, whatever the learner does between two
    batches; it may not be amid a step then. Predictions are detached, and in memory of their own. Neither a target nor
    a loss is needed:

    * A tensor is the input of the model; so is the one part of a tuple, list or mapping of one.
    * Anything else is taken for a batch as it was trained on, and its target is left away: of a tuple the last. Only
      where the model cannot be called so, but with all of the tuple, or with all fields of a mapping of which none is
      named target, label or y (or their plurals), are these all inputs.
    * `unpack` says otherwise: batch to (positional inputs, keyword inputs, target), as for a `Learner`. That of the
      learner is used where it has one, for all but tensors.
    * A task of your own is called as in eval, with the batch as it is; its `preds` are returned. One that carries
      (`carry`) begins anew with the loader.

    `weights` is the name of an update rule whose average is taken for the parameters, like "ema".

    Raises `ConfigError` at once for what is no loader, no function of a batch, or no rule that keeps an average; while
    it is read `BusyError` amid a step of the learner, and what the caller's code raises.
    """
    check_state(state)
    machine = machine_of(learner)
    if unpack is not None and isinstance(machine.task, Carried):
        raise ConfigError(
            f"predict: unpack calls the model alone, but {machine.task.source} hands on from batch to batch what the "
            f"model needs. Leave unpack out: the task is called, as in eval."
        )
    stream = _stream("predict: the loader", loader, machine)
    return _passed(machine, state, stream, predicting(going_on(machine.task), unpack), weights)


def passes(
    learner: Learner[Batch, Any],
    state: TrainState,
    loader: Iterable[Batch] | Loader[Batch] | str | None,
    made_by: Predict,
    *,
    weights: str | None = None,
    where: str,
) -> Iterator[Any]:
    """Return an iterator over what `made_by` makes of the model and each batch, as `predict` does of predictions.

    The data are found as `evaluate` finds them; `where` stands in its messages in the place of its name.
    """
    check_state(state)
    machine = machine_of(learner)
    _, stream = _stream_of(machine, loader, where)
    return _passed(machine, state, stream, made_by, weights)


def _passed(
    machine: Machine[Any], state: TrainState, stream: Stream[Any], made_by: Predict, weights: str | None
) -> Iterator[Any]:
    if weights is not None:
        seen = state.with_averages(weights)
    else:
        seen = evolved(state, tensors=machine.averaged(state.tensors)) if machine.eval_weights else state
    workspace = machine.workspace
    return _predictions(machine, seen, stream, autocasting(made_by, workspace.precision, workspace.device))


def _predictions(machine: Machine[Any], state: TrainState, stream: Stream[object], made_by: Predict) -> Iterator[Any]:
    epoch, inputs = _epoch_of(state.progress), Inputs()
    for index in count():
        with machine.running():
            found = stream.batch(state.key, epoch, index)
            if found is None:
                return
            batch = to_device(found[0], machine.workspace.device)
            noise = eval_noise(state.key, epoch, index)
            preds = _predicted(machine.workspace, state.tensors, batch, inputs, made_by, noise)
        yield preds


def _predicted(  # noqa: PLR0917 - all that one batch needs
    workspace: Workspace, tensors: Tensors, batch: object, inputs: Inputs, made_by: Predict, noise: int
) -> Any:
    def forward() -> StepOutput[Any]:
        return StepOutput(None, detached(made_by(workspace.module, given), _copied))

    with workspace.held(tensors):
        workspace.begin(tensors, step=None)
        try:
            seed_all(workspace.generators, noise)
            workspace.switch(train=False)
            given = to_be_changed(inputs.given(batch, train=False))
            return workspace.compute(forward).preds
        finally:
            inputs.taken_back()
            workspace.abandon()


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _stream_of(
    machine: Machine[Batch], loader: Iterable[Batch] | Loader[Batch] | str | None, where: str = "evaluate"
) -> tuple[str, Stream[Batch]]:
    """Return the data to evaluate on, and the name of the set. Raises `ConfigError` where there is none, or several."""
    if loader is not None and not isinstance(loader, str):
        return "", _stream(f"{where}: the loader", loader, machine)
    sets = {name: stream for name, stream in machine.streams.items() if name != "train"}
    if loader is None and len(sets) != 1:
        there = f"has {', '.join(sets)}" if sets else "is None"
        say = f"{where}(learner, state, {repr(next(iter(sets))) if sets else 'loader'})"
        raise ConfigError(f"{where}: dls.valid {there}; say what to evaluate on: {say}.")
    name = next(iter(sets)) if loader is None else loader
    if name not in sets:
        there = ", ".join(one for one in sets if one) or "no sets by name"
        raise ConfigError(f"{where}: there is no set {name!r} in dls.valid, which has {there}.")
    return name, Stream(undivided(sets[name].loader), 1, sets[name].name)


def _stream(where: str, loader: Iterable[Batch] | Loader[Batch], machine: Machine[Any]) -> Stream[Batch]:
    if isinstance(loader, (str, bytes, Mapping)):
        raise ConfigError(
            f"{where} is a {type(loader).__name__}; expected something that gives batches: a torch DataLoader, a list "
            f"of batches, or a loader with batches(key, epoch, start). Of several by name, give one."
        )
    return Stream(on_device(as_loader(loader, where), machine.workspace.device), 1, where)


def _epoch_of(place: Progress) -> int:
    """Return the epoch whose eval phase has these weights: between two epochs the one that lies behind."""
    between = place.phase == "train" and place.batch == 0
    return place.epoch - 1 if between and place.epoch > 0 else place.epoch


def update_bn(
    learner: Learner[Batch, Any], state: TrainState, loader: Iterable[Batch] | Loader[Batch] | None = None
) -> TrainState:
    """Return a state whose BatchNorm statistics are taken anew, with its own weights, over all of a loader's batches.

    It is torch's `update_bn`, for weights that were averaged: `update_bn(learner, state.with_averages("swa"))`. The
    model is in train mode, and each statistic becomes the plain mean over the batches. All else is as it was.

    Args:
        learner: whose task it is; it must not be amid a step.
        state: with the weights, and the key and epoch that rule the order and what is random.
        loader: the data; by default the learner's `dls.train`.

    Raises `ConfigError` where the model has no such statistics, `DataError` where there is no batch, `BusyError` amid a
    step of the learner, and what the caller's code raises.
    """
    check_state(state)
    machine = machine_of(learner)
    train = machine.streams["train"]
    stream = (
        Stream(undivided(train.loader), 0, train.name)
        if loader is None
        else _stream("update_bn: the loader", loader, machine)
    )
    device, template = machine.workspace.device, state.tensors.template
    module = state.to_module(train=True).to(device)
    if not any(isinstance(one, _BatchNorm) and one.track_running_stats for one in module.modules()):
        raise ConfigError(
            "update_bn: the model has no BatchNorm layer that keeps statistics; there is nothing to take."
        )
    task = cast(Called[Batch], going_on(machine.task))
    made_by = predicting(task, None) if isinstance(task, Supervised) else task
    run = autocasting(made_by, machine.workspace.precision, device)
    epoch = state.progress.epoch
    with machine.running():

        def batches() -> Iterator[list[object]]:
            for index in count():
                found = stream.batch(state.key, epoch, index)
                if found is None:
                    if not index:
                        raise DataError("update_bn: the loader has no batch to take statistics of.")
                    return
                batch = to_device(found[0], device)
                seed_all(machine.workspace.generators, eval_noise(state.key, epoch, index))
                yield [batch]

        torch.optim.swa_utils.update_bn(batches(), _Calling(module, run))
    own = state.tensors.snapshot()
    buffers = {name: one.to(own.buffers[name].device) for name, one in module.named_buffers()}
    tensors = Tensors(state.tensors.spec, template, None, replace(own, buffers=buffers))
    return evolved(state, tensors=tensors)


class _Calling(nn.Module):
    """Calls what passes a batch through a module: what torch takes for the module itself."""

    def __init__(self, module: nn.Module, run: Callable[[nn.Module, Any], object]) -> None:
        super().__init__()
        self.module = module
        self._run = run

    def forward(self, batch: object) -> object:
        return self._run(self.module, batch)
