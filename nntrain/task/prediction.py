"""What a batch's predictions are: those of its inputs, with no need of a target or a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Never, cast

from torch import Tensor, nn

from nntrain.errors import ConfigError, LossError
from nntrain.task.supervised import (
    TARGET_NAMES,
    Supervised,
    Unpacked,
    beside,
    called,
    fields_by_name,
    parts_of,
    unpacked,
)
from nntrain.task.task import Called, Task, check_output, source_of
from nntrain.values.calls import call_problem

Predict = Callable[[nn.Module, Any], Any]
"""A function of a model and a batch to its predictions."""
Inputs = tuple[tuple[object, ...], Mapping[str, object]]
"""Positional and keyword inputs of the model."""


def predicting(task: Task[Any, Any], unpack: Callable[[Never], Unpacked] | None) -> Predict:
    """Return how a batch's predictions are made.

    With `unpack`, or of a `Supervised` task, the model is called with the batch's inputs. Any other task is asked for
    all that it makes of the batch, as in eval. Raises `ConfigError` for what cannot unpack.
    """
    if unpack is not None:
        problem = call_problem(unpack, "batch")
        if problem is not None:
            raise ConfigError(f"predict: unpack is {unpack!r:.80}; expected a function of the batch: {problem}.")
        return partial(_of_inputs, unpack)
    return partial(_of_inputs, task.unpack) if isinstance(task, Supervised) else partial(_of_task, task)


def _of_task(task: Task[Any, Any], model: nn.Module, batch: object) -> object:
    output = check_output(cast(Called[Any], task)(model, batch), task, train=False)
    if output.preds is None:
        raise LossError(f"{source_of(task)} returned no preds; predict needs them: StepOutput(loss, preds, ...).")
    return output.preds


def _of_inputs(unpack: Callable[[Never], Unpacked], model: nn.Module, batch: object) -> object:
    inputs, named = _inputs(unpack, model, batch)
    return called(model, *beside(model, (inputs, named)))


def _inputs(unpack: Callable[[Never], Unpacked], model: nn.Module, batch: object) -> Inputs:
    """Return a batch's inputs: without its target, if it has one."""
    if isinstance(batch, Tensor):
        return (batch,), {}
    if unpack is unpacked:
        if type(batch) in {tuple, list}:
            items: tuple[object, ...] = tuple(batch)  # type: ignore[arg-type] # it is one of the two
            takes_all = call_problem(model, *items[:-1]) is not None and call_problem(model, *items) is None
            if len(items) == 1 or takes_all:
                return items, {}
        named = fields_by_name(batch)
        if named is not None and not any(name in TARGET_NAMES for name in named):
            if len(named) == 1:
                return tuple(named.values()), {}
            if call_problem(model, **named) is None:
                return (), named
    inputs, by_name, _ = parts_of(cast("Callable[[object], Unpacked]", unpack), batch)
    return inputs, by_name
