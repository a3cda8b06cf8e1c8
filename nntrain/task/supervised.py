"""The original's batch: inputs and a target, and `loss_fn(model(*inputs, **named), target)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Never, Protocol, runtime_checkable

from torch import Tensor, nn
from typing_extensions import TypeVar

from nntrain.errors import ConfigError, DataError, add_note
from nntrain.metrics.measured import AnyMetric, named_metrics
from nntrain.task.batches import odd_batch, samples_of
from nntrain.task.task import checked_weight
from nntrain.values.calls import call_problem, class_of_calls, function_name, remembers_calls
from nntrain.values.log_event import Note
from nntrain.values.output import StepOutput
from nntrain.values.record import FrozenMapping
from nntrain.values.sums import Weight
from nntrain.values.trees import Tree, described, fields_of, is_record, tensors_of, to_device

Batch = TypeVar("Batch", default=Any)
Unpacked = tuple[tuple[object, ...], Mapping[str, object], object]
"""Positional inputs of the model, keyword inputs of the model, target."""

TARGET_NAMES = ("target", "targets", "label", "labels", "y")
Compiles = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Compiles a function, in whatever way the learner's engine does."""
LossFn = Callable[[Never, Never], Tensor]
"""A function of (preds, target) to the loss, a 0-dim tensor. What the two are is between it, the model and the data."""


def check_loss_fn(loss_fn: object) -> None:
    """Raise `ConfigError` for what is no function of (preds, target)."""
    expected = "expected a function of (preds, target) that returns the loss, like torch.nn.functional.cross_entropy"
    kind = class_of_calls(loss_fn)
    if kind is not None:
        made = f" Pass an instance: {kind.__name__}(...)." if issubclass(kind, nn.Module) else ""
        raise ConfigError(f"loss_fn is the class {kind.__name__}; {expected}.{made}")
    if not callable(loss_fn):
        raise ConfigError(f"loss_fn is {loss_fn!r:.80}; {expected}.")
    if remembers_calls(loss_fn):
        raise ConfigError(
            f"loss_fn {function_name(loss_fn)} collects what it is called with (it has update, compute and reset); "
            f"{expected}."
        )
    problem = call_problem(loss_fn, "preds", "target")
    if problem is not None:
        raise ConfigError(f"loss_fn {function_name(loss_fn)} cannot be called with (preds, target): {problem}.")
    _check_untrained(loss_fn)


def _check_untrained(loss_fn: object) -> None:
    """Raise `ConfigError` for a loss that is a module with parameters to train, which no optimizer would."""
    if not isinstance(loss_fn, nn.Module):
        return
    names = [name for name, param in loss_fn.named_parameters() if param.requires_grad]
    if names:
        raise ConfigError(
            f"loss_fn {type(loss_fn).__name__} has parameters of its own: {', '.join(names)}. A learner trains the "
            f"model's only. Make the loss a part of the model (a module that holds both, whose forward returns what "
            f"the loss needs of them), or, if they are not to be trained, freeze them: loss_fn.requires_grad_(False)."
        )


@runtime_checkable
class _Named(Protocol):
    """A named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Supervised(Generic[Batch]):
    """The task of a batch that has inputs and a target. Made by `supervised`."""

    loss_fn: LossFn
    metric_fn: AnyMetric | Mapping[str, AnyMetric]
    unpack: Callable[[Batch], Unpacked]
    weigh: Callable[[Batch], int | Tensor] | None

    def __post_init__(self) -> None:
        """Check every argument, and freeze the mapping of metrics."""
        check_loss_fn(self.loss_fn)
        named_metrics(self.metric_fn)
        for name, given in (("unpack", self.unpack), ("weigh", self.weigh)):
            problem = None if given is None else call_problem(given, "batch")
            if problem is not None:
                raise ConfigError(f"{name} is {given!r:.80}; expected a function of the batch: {problem}.")
        if isinstance(self.metric_fn, Mapping):
            object.__setattr__(self, "metric_fn", FrozenMapping(self.metric_fn))

    def __call__(self, model: nn.Module, batch: Batch) -> StepOutput[Any]:
        """Return the loss of a batch, with the predictions, the target and the weight."""
        parts, weight = self._parts(model, batch)
        inputs, named, target = parts
        preds = called(model, inputs, named)
        loss_fn: Any = self.loss_fn  # a cast would make its type anew at each batch
        try:
            loss = loss_fn(preds, target)
        except Exception as error:
            add_note(
                error, f"nntrain: raised by loss_fn; preds are {described(preds)}, the target is {described(target)}"
            )
            raise
        return StepOutput(loss, preds, target, weight)

    def _parts(self, model: nn.Module, batch: Batch) -> tuple[Unpacked, Weight]:
        """Return a batch's inputs and target, and how much it weighs: its samples, unless `weigh` says otherwise."""
        parts = parts_of(self.unpack, batch)
        if type(batch) is not tuple and self.unpack is not unpacked and next(tensors_of(batch), None) is None:
            parts = beside(model, parts)
        if self.weigh is not None:
            return parts, checked_weight(self.weigh(batch), "weigh")
        target = parts[2]
        if isinstance(target, Tensor) and target.ndim and target.size(0):
            return parts, target.size(0)
        return parts, samples_of(target, _counted(batch, parts))

    def odd_batch(self, batch: Batch, weight: Weight | None) -> Note | None:
        """Return what to warn of where a batch's tensors disagree about their first dimension, and no `weigh` says."""
        if self.weigh is not None:
            return None
        return odd_batch(_counted(batch, self.unpack(batch)), weight)

    @property
    def source(self) -> str:
        """Who gives the loss, for messages."""
        return f"loss_fn {function_name(self.loss_fn)}"

    def compiled(self, model: nn.Module, compiles: Compiles) -> Callable[[nn.Module, Batch], StepOutput[Any]]:
        """Return the task with the model and the loss compiled together."""
        loss_fn: Any = self.loss_fn

        def evaluate(inputs: Any, named: Any, target: Any) -> StepOutput[Any]:
            preds = model(*inputs, **named)
            return StepOutput(loss_fn(preds, target), preds)

        run = compiles(evaluate)

        def task(model: nn.Module, batch: Batch) -> StepOutput[Any]:
            parts, weight = self._parts(model, batch)
            try:
                made = run(*parts)
            except Exception as error:
                add_note(error, f"nntrain: raised by the compiled model or loss_fn; the batch is {described(parts)}")
                raise
            return StepOutput(made.loss, made.preds, parts[2], weight)

        return task


def parts_of(unpack: Callable[[Batch], Unpacked], batch: Batch) -> Unpacked:
    """Return a batch's parts. Raises `DataError` where `unpack` returns something else."""
    parts: object = unpack(batch)
    if not isinstance(parts, tuple) or len(parts) != 3:
        raise DataError(
            f"unpack {function_name(unpack)} returned {described(parts)}; expected a tuple of three: inputs by "
            f"position (a tuple), inputs by name (a mapping), target."
        )
    return parts


def called(model: nn.Module, inputs: tuple[object, ...], named: Mapping[str, object]) -> Any:
    """Return what a model makes of its inputs; what it raises has a note that describes them."""
    try:
        return model(*inputs, **named)
    except Exception as error:
        given = ", ".join([*map(described, inputs), *(f"{name}={described(one)}" for name, one in named.items())])
        add_note(error, f"nntrain: raised by the model; its inputs are ({given})")
        raise


def beside(model: nn.Module, parts: Tree) -> Tree:
    """Move the parts of a batch that cannot be moved by itself to where the model is."""
    first = next(model.parameters(), None)
    return parts if first is None else to_device(parts, first.device)


def supervised(
    loss_fn: LossFn,
    metric_fn: AnyMetric | Mapping[str, AnyMetric] | None = None,
    unpack: Callable[[Batch], Unpacked] | None = None,
    weigh: Callable[[Batch], int | Tensor] | None = None,
) -> Supervised[Batch]:
    """Return the original's batch as a task: `loss_fn(model(*inputs, **named), target)`.

    Args:
        loss_fn: (preds, target) to a 0-dim tensor, the mean over the batch's samples.
        metric_fn: metrics as `Learner` takes them; none by default.
        unpack: batch to (positional inputs, keyword inputs, target); by default as `Learner` does it.
        weigh: how much a batch weighs in the means; by default its samples.

    Raises `ConfigError` for arguments that cannot be meant.
    """
    return Supervised(loss_fn, {} if metric_fn is None else metric_fn, unpacked if unpack is None else unpack, weigh)


def _counted(batch: object, parts: Unpacked) -> object:
    """Return where a batch's tensors are: in itself or, where it is of a class that hides them, in its parts."""
    return parts if next(tensors_of(batch), None) is None and next(tensors_of(parts), None) is not None else batch


def fields_by_name(batch: object) -> dict[str, Any] | None:
    """Return what a mapping, named tuple, dataclass or attrs class has by name; None for anything else."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, _Named):
        return dict(batch._asdict())
    return fields_of(batch) if is_record(batch) else None


def unpacked(batch: object) -> Unpacked:
    """Return a batch's inputs and its target.

    Of a tuple or list the last is the target, and the others are the model's positional inputs. Of a mapping, dataclass
    or attrs class the target is the one field named target, label or y (or their plurals), else the last; a single
    other field is given to the model by position, several by name.
    """
    if type(batch) is tuple and len(batch) == 2:
        return batch[:1], {}, batch[1]
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        if len(batch) < 2:
            raise DataError(
                f"A batch needs inputs and a target; got {described(batch)}. Give tuples (inputs, target), "
                f"or tell them apart by Learner(..., unpack=...)."
            )
        return tuple(batch[:-1]), {}, batch[-1]
    named = fields_by_name(batch)
    if named is None:
        raise DataError(
            f"A batch is a tuple, list, mapping, dataclass or attrs class of inputs and a target; got "
            f"{described(batch)}. For anything else pass Learner(..., unpack=...)."
        )
    targets = [name for name in named if name in TARGET_NAMES]
    if len(named) < 2 or len(targets) > 1:
        raise DataError(
            f"Of a batch with the fields {', '.join(named) or '(none)'} the target is the one named "
            f"{', '.join(TARGET_NAMES)}, or the last; here it cannot be told. Pass Learner(..., unpack=...)."
        )
    target = named.pop(targets[0] if targets else next(reversed(named)))
    if len(named) == 1:
        return tuple(named.values()), {}, target
    return (), named, target
