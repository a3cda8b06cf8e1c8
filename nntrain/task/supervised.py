"""The original's batch: inputs and a target, and a loss of the predictions and the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Never, Protocol, runtime_checkable

from torch import Tensor

from nntrain.errors import DataError
from nntrain.values.trees import described

Unpacked = tuple[tuple[object, ...], Mapping[str, object], object]
"""Positional inputs of the model, keyword inputs of the model, target."""

TARGET_NAMES = ("target", "targets", "label", "labels", "y")
LossFn = Callable[[Never, Never], Tensor]
"""A function of (preds, target) to the loss, a 0-dim tensor. What the two are is between it, the model and the data."""


@runtime_checkable
class _Named(Protocol):
    """A named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


def unpacked(batch: object) -> Unpacked:
    """Tell a batch's inputs from its target.

    Of a tuple or list the last is the target, and the others are the model's positional inputs. Of a mapping or
    dataclass the target is the one field named target, label or y (or their plurals), else the last; a single other
    field is given to the model by position, several by name.
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
    elif dataclasses.is_dataclass(batch):
        named = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    else:
        raise DataError(
            f"A batch is a tuple, list, mapping or dataclass of inputs and a target; got {described(batch)}. "
            f"For anything else pass Learner(..., unpack=...)."
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
