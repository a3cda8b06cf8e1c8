"""Passes beside a training: with a module of its own, the learner's task and precision, and noise of a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Never, TypeVar, cast

from torch import nn

from nntrain.data.divided import undivided
from nntrain.data.stream import Stream
from nntrain.errors import ConfigError, DataError
from nntrain.live.precision import autocasting
from nntrain.machine.machine import Machine
from nntrain.task.batches import to_be_changed
from nntrain.task.prediction import predicting
from nntrain.task.supervised import Supervised, Unpacked
from nntrain.task.task import Called
from nntrain.values.key import Key
from nntrain.values.output import StepOutput
from nntrain.values.randomness import seed_all
from nntrain.values.trees import to_device

Batch = TypeVar("Batch")
Pass = Callable[[nn.Module, Any], Any]
"""A function of a model and a batch to what is made of it."""


def first_batch(machine: Machine[Batch], key: Key, epoch: int) -> Batch:
    """Return the first batch of an epoch's train data, whole on each rank. Raises `DataError` where there is none."""
    trained_on = machine.streams["train"]
    stream: Stream[Batch] = Stream(undivided(trained_on.loader), trained_on.fold, trained_on.name)
    with machine.running():
        try:
            found = stream.batch(key, epoch, 0)
        finally:
            stream.close()  # its data may have been told of another epoch; it is begun again at its place
    if found is None:
        raise DataError(f"{stream.name} gave no batch; expected at least one.")
    return found[0]


def forward_of(machine: Machine[Any]) -> Pass:
    """Return what passes a batch through a module: of a loss and a model the model alone, with no need of a target."""
    task = machine.task
    return forward_of_inputs(task.unpack) if isinstance(task, Supervised) else cast(Called[Any], task)


def forward_of_inputs(unpack: Callable[[Never], Unpacked]) -> Pass:
    """Return what calls a module with a batch's inputs, as they are unpacked."""
    return predicting(_no_task, unpack)


def _no_task(*_: object) -> StepOutput[None]:
    """Stand for the task, which is not called where inputs are unpacked."""
    raise ConfigError("A batch of inputs needs no task.")


def passed(machine: Machine[Any], module: nn.Module, run: Pass, batch: object, bits: int) -> Any:
    """Return what `run` makes of a module and a batch, in the learner's precision, with no gradient unless it asks.

    What is random is seeded with `bits`; the caller's generators are as they were.
    """
    workspace = machine.workspace
    with machine.running():
        given = to_be_changed(to_device(batch, workspace.device))
        seed_all(workspace.generators, bits)
        return autocasting(run, workspace.precision, workspace.device)(module, given)
