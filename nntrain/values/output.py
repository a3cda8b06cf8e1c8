"""What a batch gave, as subscribers and sinks see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

from nntrain.values.trees import detached


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """What a batch gave: `loss` (0-dim) and `preds` (what the model returned), both detached from the graph.

    `metrics` are the batch's own, by name: 0-dim tensors, or numbers where the metric gives such.
    """

    loss: Tensor
    preds: object
    """The model's own output: a tensor, or a tree of tensors. `isinstance` tells a type checker which."""
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)

    def copied(self) -> BatchOutput:
        """Return the same output in memory of its own: an engine may use its memory again for the next batch."""
        metrics = {name: one.clone() if isinstance(one, Tensor) else one for name, one in self.metrics.items()}
        return BatchOutput(self.loss.clone(), detached(self.preds, Tensor.clone), MappingProxyType(metrics))
