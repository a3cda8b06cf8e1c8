"""The original's batch: inputs and a target, and `loss_fn(model(*inputs, **named), target)`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Generic, Never, Protocol, SupportsIndex, TypeVar, cast, runtime_checkable

from torch import Tensor, nn

from nntrain.errors import ConfigError, DataError, LossError, add_note
from nntrain.task.batches import sample_count
from nntrain.values.calls import call_problem, class_of_calls, function_name, remembers_calls
from nntrain.values.log_event import Note
from nntrain.values.sums import Weight
from nntrain.values.trees import described, fields_of, first_length, is_record, tensors_of

Batch = TypeVar("Batch")
Unpacked = tuple[tuple[object, ...], Mapping[str, object], object]
"""Positional inputs of the model, keyword inputs of the model, target."""

TARGET_NAMES = ("target", "targets", "label", "labels", "y")
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


class Supervised(Generic[Batch]):
    """What a batch means where it has inputs and a target. Knows no model: it is given the one to evaluate."""

    def __init__(
        self,
        loss_fn: LossFn,
        unpack: Callable[[Batch], Unpacked],
        weigh: Callable[[Batch], int | Tensor] | None,
        warn: Callable[[Note], None],
    ) -> None:
        self.loss_fn: LossFn = loss_fn
        self._loss_fn = cast(Callable[[object, object], object], loss_fn)
        self._unpack = unpack
        self._weigh = weigh
        self._warn = warn
        self._warned = False

    def parts(self, batch: Batch) -> tuple[Unpacked, Weight]:
        """Return a batch's inputs and target, and how much it weighs: its samples, unless `weigh` says otherwise.

        The samples are the first dimension of the target; where that has none, of the batch's first tensor. Raises
        `DataError` where there are none.
        """
        parts: object = self._unpack(batch)
        if not isinstance(parts, tuple) or len(parts) != 3:
            raise DataError(
                f"unpack {function_name(self._unpack)} returned {described(parts)}; expected a tuple of three: "
                f"inputs by position (a tuple), inputs by name (a mapping), target."
            )
        if self._weigh is not None:
            return parts, _checked_weight(self._weigh(batch))
        target = parts[2]
        samples = target.size(0) if isinstance(target, Tensor) and target.ndim else first_length(target)
        if samples is None:
            samples = sample_count(_counted(batch, parts))
        if samples == 0:
            raise DataError(f"The batch ({described(batch)}) has no samples.")
        return parts, samples

    def look_at(self, batch: Batch, parts: Unpacked, weight: Weight) -> None:
        """Warn, once, where a batch's tensors disagree about their first dimension, and `weigh` says nothing."""
        if self._weigh is not None or self._warned:
            return
        counted = _counted(batch, parts)
        if len({tensor.size(0) for tensor in tensors_of(counted) if tensor.ndim}) < 2:
            return
        self._warned = True
        self._warn(
            Note(
                "batch.samples",
                f"The tensors of a batch disagree about their first dimension: {described(counted)}. It counts as "
                f"{weight} samples in the means of the loss and the metrics. Say how many they are, or how much it "
                f"weighs otherwise: Learner(..., weigh=lambda batch: ...).",
            )
        )

    def evaluate(self, model: nn.Module, parts: Unpacked) -> tuple[object, object]:
        """Return the predictions and the loss, which `check` is to see before it is used."""
        inputs, named, target = parts
        try:
            preds = model(*inputs, **named)
        except Exception as error:
            given = ", ".join([*map(described, inputs), *(f"{name}={described(one)}" for name, one in named.items())])
            add_note(error, f"nntrain: raised by the model; its inputs are ({given})")
            raise
        try:
            return preds, self._loss_fn(preds, target)
        except Exception as error:
            add_note(
                error, f"nntrain: raised by loss_fn; preds are {described(preds)}, the target is {described(target)}"
            )
            raise

    def traceable(self, model: nn.Module) -> Callable[[Any, Any, Any], tuple[object, object]]:
        """Return `evaluate` of a batch's three parts as a plain function that `torch.compile` sees through."""
        loss_fn = self._loss_fn

        def evaluate(inputs: Any, named: Any, target: Any) -> tuple[object, object]:
            preds = model(*inputs, **named)
            return preds, loss_fn(preds, target)

        return evaluate

    def check(self, loss: object, *, train: bool) -> Tensor:
        """Return the loss if it is one: a 0-dim tensor, in training with a gradient. Raises `LossError`."""
        if isinstance(loss, Tensor) and not loss.ndim and (loss.requires_grad or not train):
            return loss
        name = function_name(self._loss_fn)
        if not isinstance(loss, Tensor) or loss.ndim:
            given = described(loss) if isinstance(loss, Tensor) else repr(loss)[:80]
            raise LossError(
                f"loss_fn {name} returned {given}; expected one number as a 0-dim tensor, like loss.mean()."
            )
        raise LossError(
            f"loss_fn {name} returned a loss without a gradient. Compute it from the model's output with torch "
            f"operations (no .item(), .detach() or argmax on the way)."
        )


def _counted(batch: object, parts: Unpacked) -> object:
    """Return where a batch's tensors are: in itself or, where it is of a class that hides them, in its parts."""
    return batch if next(tensors_of(batch), None) is not None else parts


def _checked_weight(given: object) -> Weight:
    """Return what `weigh` returned: an int of 1 or more where it is one, a float or a tensor on a device otherwise."""
    weight = given
    if isinstance(weight, Tensor) and not weight.ndim and not weight.is_complex():
        if weight.device.type != "cpu":
            return weight.detach()
        weight = weight.item()
    if isinstance(weight, SupportsIndex) and not isinstance(weight, (bool, Tensor)):
        weight = operator.index(weight) or 0.0
    if isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf:
        return weight
    raise DataError(
        f"weigh returned {described(given) if isinstance(given, Tensor) else repr(given)[:80]}; expected how much the "
        f"batch weighs in the means: a number of 0 or more, or a 0-dim tensor of one."
    )


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
    named: dict[str, Any]
    if isinstance(batch, Mapping):
        named = dict(batch)
    elif isinstance(batch, _Named):
        named = dict(batch._asdict())
    elif is_record(batch):
        named = fields_of(batch)
    else:
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
