"""Copies of what a subscriber, a sink or a metric gets, to see afterwards whether it was written to."""

from __future__ import annotations

from typing import Any

from nntrain.values.output import BatchOutput
from nntrain.values.state import TrainState
from nntrain.values.trees import tree_map


def writable_parts(value: Any) -> Any:
    """Return what can be written to in a batch, an output or a state: of states and outputs, their parts."""
    if isinstance(value, TrainState):
        return {**value.params, **value.buffers}
    if isinstance(value, BatchOutput):
        return value.loss, value.preds, dict(value.metrics)
    return value


def copy_parts(value: Any) -> Any:
    """Return a copy of its writable parts, tensor by tensor."""
    return tree_map(writable_parts(value), lambda tensor: tensor.detach().clone())
