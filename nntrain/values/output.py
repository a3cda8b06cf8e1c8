"""What a batch gave: as the task returns it, and as subscribers and sinks see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic

from torch import Tensor
from typing_extensions import TypeVar

from nntrain.values.sums import Weight
from nntrain.values.trees import detached

Preds_co = TypeVar("Preds_co", covariant=True, default=Any)
Shown_co = TypeVar("Shown_co", covariant=True, default=object)


@dataclass(frozen=True, slots=True)
class StepOutput(Generic[Preds_co]):
    """What a task makes of a batch.

    Args:
        loss: 0-dim, a mean over `weight`. In training it has a gradient; in eval it may be None.
        preds: what the model returned, for subscribers and metrics: a tensor, or a tree of tensors.
        target: what metrics compare `preds` with.
        weight: over how much the loss, `parts` and the metrics are means: a number of 0 or more, or a 0-dim tensor,
            which stays on its device. By default the batch's samples.
        parts: further 0-dim means, by name, told beside the loss, as the terms that it is the sum of.
    """

    loss: Tensor | None
    preds: Preds_co = None  # type: ignore[assignment] # a task without predictions is one of `StepOutput[None]`
    target: Any = None
    weight: Weight | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)


def without_graph(output: StepOutput[Any], own: Callable[[Tensor], Tensor], weight: Weight | None) -> StepOutput[Any]:
    """Return what a task made with each tensor as `own` returns it, which detaches it from the graph."""
    loss, preds, parts = output.loss, output.preds, output.parts
    return StepOutput(
        None if loss is None else own(loss),
        own(preds) if isinstance(preds, Tensor) else detached(preds, own),
        output.target,
        weight,
        {name: own(part) for name, part in parts.items()} if parts else parts,
    )


@dataclass(frozen=True, slots=True)
class BatchOutput(Generic[Shown_co]):
    """What a batch gave: `loss` (0-dim) and `preds` (what the model returned), both detached from the graph.

    `metrics` are the parts of its loss and its metrics, by name: 0-dim tensors, or numbers where a metric gives such.
    `told` is what the update rules say of the write, like `grad_norm`: sinks see it; subscribers are asked before, and
    see none.
    """

    loss: Tensor
    preds: Shown_co
    """The model's own output: a tensor, or a tree of tensors. Where its type is not said, `isinstance` tells which."""
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)
    has_loss: bool = True
    """Whether the task gave a loss: in eval it need not, and `loss` is NaN then."""
    told: Mapping[str, Tensor | float] = field(default_factory=dict)

    def copied(self) -> BatchOutput[Shown_co]:
        """Return the same output in memory of its own: an engine may use its memory again for the next batch."""
        metrics = {name: one.clone() if isinstance(one, Tensor) else one for name, one in self.metrics.items()}
        preds = detached(self.preds, Tensor.clone)
        return BatchOutput(self.loss.clone(), preds, MappingProxyType(metrics), self.has_loss, self.told)
