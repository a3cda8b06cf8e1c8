"""Tasks: what a batch means is a function of a model and a batch; what it returned is looked at here."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, Never, SupportsIndex, TypeVar

from torch import Tensor, nn

from nntrain.errors import ConfigError, DataError, LossError
from nntrain.task.batches import odd_batch, samples_of
from nntrain.values.calls import call_problem, class_of_calls, function_name
from nntrain.values.log_event import Note
from nntrain.values.output import StepOutput
from nntrain.values.sums import Weight
from nntrain.values.trees import described, first_length

Batch = TypeVar("Batch")
Preds = TypeVar("Preds")
Task = Callable[[Never, Batch], StepOutput[Preds]]
"""A function of a model and a batch to what is made of it. It is pure: it uses the model that it is given, no other.
Which model that is is between it and the learner, so any type of model will do."""
_SAY: Final = "StepOutput(..., weight=...)"
Called = Callable[[nn.Module, Batch], StepOutput[Any]]
"""A task, as it is called."""


def check_task(task: object) -> None:
    """Raise `ConfigError` for what is no function of (model, batch)."""
    expected = "expected a function of (model, batch) that returns a StepOutput"
    kind = class_of_calls(task)
    if kind is not None:
        raise ConfigError(f"task is the class {kind.__name__}; {expected}. Pass an instance: {kind.__name__}(...).")
    if not callable(task):
        raise ConfigError(f"task is {task!r:.80}; {expected}.")
    problem = call_problem(task, "model", "batch")
    if problem is not None:
        raise ConfigError(f"task {function_name(task)} cannot be called with (model, batch): {problem}; {expected}.")


def source_of(task: object) -> str:
    """Return who gives the loss, for messages."""
    source = getattr(task, "source", None)
    return source if isinstance(source, str) else f"task {function_name(task)}"


def check_output(output: object, task: object, *, train: bool) -> StepOutput[Any]:
    """Return what a task returned, if it is a `StepOutput` whose loss is one. Raises `LossError`.

    A loss is a 0-dim tensor, in training with a gradient; in eval there may be none.
    """
    if not isinstance(output, StepOutput):
        raise LossError(
            f"{source_of(task)} returned {described(output):.200}; expected a StepOutput, like "
            f"StepOutput(loss, preds, target)."
        )
    loss: object = output.loss
    if isinstance(loss, Tensor) and not loss.ndim and (loss.requires_grad or not train):
        if output.parts or type(output.parts) is not dict:
            _check_parts(output, task)
        return output
    name = source_of(task)
    if loss is None:
        if not train:
            _check_parts(output, task)
            return output
        of_task = name.startswith("task ")
        expected = "StepOutput(loss, ...). In eval it may be None" if of_task else "one number as a 0-dim tensor"
        raise LossError(f"{name} returned no loss in training; expected {expected}.")
    if not isinstance(loss, Tensor) or loss.ndim:
        given = described(loss) if isinstance(loss, Tensor) else repr(loss)[:80]
        raise LossError(f"{name} returned {given}; expected one number as a 0-dim tensor, like loss.mean().")
    raise LossError(
        f"{name} returned a loss without a gradient. Compute it from the model's output with torch "
        f"operations (no .item(), .detach() or argmax on the way)."
    )


def _check_parts(output: StepOutput[Any], task: object) -> None:
    given: object = output.parts
    if not isinstance(given, Mapping):
        raise LossError(
            f"{source_of(task)} returned the parts {described(given):.80}; expected a mapping of names to 0-dim "
            f"tensors, like parts={{'error': error}}, or none: leave it away."
        )
    for name, part in output.parts.items():
        if not isinstance(name, str) or name == "loss":
            raise LossError(f"{source_of(task)} named a part {name!r}; expected a string other than 'loss'.")
        if not isinstance(part, Tensor) or part.ndim or part.is_complex():
            given = described(part) if isinstance(part, Tensor) else repr(part)[:80]
            raise LossError(f"{source_of(task)} returned part {name} as {given}; expected one number, a 0-dim tensor.")


def weight_of(output: StepOutput[Any], batch: object, task: object, *, checked: bool, is_part: bool = False) -> Weight:
    """Return how much a batch weighs: what the task said, if that is `checked` or right, else its samples.

    These are the first dimension of the target; where that has none, of the batch's first tensor. One that `is_part`
    of another may weigh nothing. Raises `DataError`.
    """
    weight = output.weight
    if weight is not None:
        if checked or (type(weight) is int and weight > 0):
            return weight
        weight = checked_weight(weight, source_of(task))
        if not isinstance(weight, Tensor) and not weight and not is_part:
            raise no_weight(task)
        return weight
    return samples_of(output.target, batch, _SAY)


def no_weight(task: object) -> DataError:
    """Return the error for a batch that weighs nothing."""
    return DataError(
        f"{source_of(task)} returned the weight 0: a mean over nothing, which is NaN as a rule. Leave such "
        f"batches out of the data, or answer CancelBatch in before_batch."
    )


def odd_output(output: StepOutput[Any], batch: object) -> Note | None:
    """Return what to warn of where a task did not say how much a batch weighs, and its tensors do not agree on it."""
    if first_length(output.target) is not None:
        return None
    return odd_batch(batch, first_length(batch), _SAY)


def checked_weight(given: object, source: str) -> Weight:
    """Return a weight: an int of 1 or more where it is one, a float or a tensor on a device otherwise."""
    weight = given
    if isinstance(weight, Tensor) and not weight.ndim and not weight.is_complex():
        if weight.device.type != "cpu":
            return weight.detach()
        weight = weight.item()
    if isinstance(weight, SupportsIndex) and not isinstance(weight, (bool, Tensor)):
        weight = operator.index(weight) or 0.0
    if isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf:
        return weight
    given = described(given) if isinstance(given, Tensor) and given.numel() != 1 else repr(given)[:80]
    raise DataError(
        f"{source} returned {'' if source == 'weigh' else 'the weight '}{given}; expected how much the batch weighs in "
        f"the means: a number of 0 or more, or a 0-dim tensor of one."
    )
