"""Copies of what is shown to a subscriber, a sink or a metric, to see afterwards whether it was written to."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nntrain.values.output import BatchOutput
from nntrain.values.state import TrainState
from nntrain.values.trees import tree_map


def plain(shown: Any) -> Any:
    """Give what of a batch, an output or a state can be written to, as a tree: of states and outputs their parts."""
    if isinstance(shown, TrainState):
        return {**shown.params, **shown.buffers}
    if isinstance(shown, BatchOutput):
        return shown.loss, shown.preds, dict(shown.metrics)
    return shown


def copied(shown: Any) -> Any:
    """Copy it, tensor by tensor; a copy of a state does not keep the state."""
    return tree_map(plain(shown), _clone)


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
