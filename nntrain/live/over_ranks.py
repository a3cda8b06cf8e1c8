"""How one pass is over several ranks: what each rank's part weighs, and gradients that are means over all parts.

Each rank's loss is a mean over the weight of its part. What `DistributedDataParallel` makes of the gradients is their
mean over the ranks, each counting alike; so a rank goes backward from its loss times its weight, over the mean weight
of the ranks. Where all parts weigh the same that is the loss itself, and the gradients have the bits of a hand-written
loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, Final, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nntrain.data.dividing import Part
from nntrain.errors import LossError
from nntrain.ranks.options import DataParallel
from nntrain.ranks.ranks import Ranks
from nntrain.task.task import Called
from nntrain.values.output import StepOutput
from nntrain.values.sums import Weight
from nntrain.values.trees import tensors_of

Batch = TypeVar("Batch")


class Weighed(NamedTuple):
    """What a rank's part of a batch weighs, its `own`, and what the update rule is told; and of the whole batch.

    `total` is what that weighs, and `samples` are its own where weights are ints, as one process counts them.
    """

    own: Weight
    to_rule: Weight
    total: float
    samples: int


class Shares:
    """What the parts of the batch in flight weigh, seen from one rank.

    `alone` says that each rank's gradients are its own until the rule writes, as with `accumulate`: then nothing is
    scaled, and the rule weighs them. Without `params` a backward pass of nothing goes through all of the loss's graph,
    as where the ranks meet at places in it.
    """

    def __init__(self, ranks: Ranks, params: Sequence[Tensor], *, alone: bool) -> None:
        self._ranks = ranks
        self._params = params
        self._alone = alone
        self._by_rows: dict[bool, bool] = {}
        """Whether each part weighs its rows, in training and in eval: then nobody needs to ask."""
        self._factor: float = 1.0

    def weigh(self, weight: Weight, part: Part[Any], *, train: bool) -> Weighed:
        """Return what this rank's `part` weighs, of which the task or the batch says `weight`.

        Raises `LossError` where batches that weighed their samples weigh something else all of a sudden.
        """
        size, rows, total = self._ranks.world.size, part.rows, part.total
        by_rows = type(weight) is int and weight == (rows or 1)
        known = self._by_rows.get(train)
        if known is None:
            known = self._by_rows[train] = all(self._ranks.gathered(by_rows))
        if known:
            if not by_rows:
                raise LossError(
                    f"A batch's part of {rows} samples weighs {weight!r:.40}, and those before it weighed their "
                    f"samples on all ranks. Say from the first batch on how much one weighs: StepOutput(weight=...)."
                )
            self._factor = rows * size / total
            return Weighed(rows, rows if self._alone else total, total, total)
        own: Weight = weight if rows else 0
        told = self._ranks.rows([float(own), type(own) is int])
        weighs, whole = sum(row[0] for row in told), all(row[1] for row in told)
        self._factor = float(own) * size / weighs if weighs else 0.0
        return Weighed(own, own if self._alone else weighs, weighs, int(weighs) if whole else 0)

    def loss(self, loss: Tensor) -> Tensor:
        """Return what to go backward from."""
        if self._factor == 1.0 or (self._alone and self._factor):
            return loss
        if not self._factor and self._params:  # of nothing: the loss may be NaN, and so would 0 times its gradients be
            return torch.stack([one.reshape(-1)[:1].sum() for one in self._params if one.requires_grad]).sum() * 0.0
        return loss * self._factor

    def protect(self, output: StepOutput[Any]) -> None:
        """See to it that gradients of nothing are 0 where they reach the predictions: the loss may have made NaN."""
        if not self._factor and not self._params:
            for one in tensors_of(output.preds):
                if one.requires_grad:
                    one.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call] # torch leaves it untyped


class Distributed(Generic[Batch]):
    """A task over the live module, with torch's sums of gradients over the ranks as the backward pass goes on."""

    def __init__(self, run: Called[Batch], model: nn.Module, ranks: Ranks, options: DataParallel) -> None:
        self._ranks = ranks
        self._model = model
        self._options = options
        self._forward = _Forward(run, model)
        self._ddp: DistributedDataParallel | None = None

    def _made(self) -> DistributedDataParallel:
        """Return what torch makes of the task, when it is first trained: torch takes no model that is all frozen."""
        device = next(self._model.parameters()).device
        with self._ranks.together("begin to train"):
            return DistributedDataParallel(
                self._forward,
                device_ids=[device] if device.type == "cuda" else None,
                init_sync=False,  # a fresh state has the weights of rank 0
                **_NO_BUFFERS,
                bucket_cap_mb=self._options.bucket_mb,
                find_unused_parameters=self._options.find_unused_parameters,
            )

    def __call__(self, model: nn.Module, *given: Any) -> StepOutput[Any]:  # noqa: ARG002 - it is the live one
        """Return what the task makes of a batch; backward from its loss, gradients are means over the ranks."""
        if self._ddp is None:
            self._ddp = self._made()
        loss = self._ddp(*given)
        output: StepOutput[Any] = self._forward.outputs.pop()
        return output if loss is output.loss else replace(output, loss=loss)


_NO_BUFFERS: Final[dict[str, Any]] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}
"""What tells torch to leave buffers alone: the second name is that of torch before 2.15."""


class _Forward(nn.Module):
    """What torch wraps: its forward is the task."""

    def __init__(self, run: Called[Any], model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._run = partial(run, model)
        self.outputs: list[Any] = []
        """What the task made of the batch in flight: a module takes long to set an attribute."""

    def __call__(self, *given: Any) -> Tensor | None:
        """Return the loss: with no hooks of its own, it has no use for what `nn.Module` does around `forward`."""
        self.outputs[:] = [output := self._run(*given)]
        loss: Tensor | None = getattr(output, "loss", None)
        return loss


def averaged(ranks: Ranks, params: Mapping[str, Tensor]) -> None:
    """Make the gradients of parameters their means over the ranks, each rank counting alike."""
    found = {name: param.grad for name, param in params.items() if param.grad is not None}
    mean = ranks.mean(found, 1.0, [*params])
    for name, param in params.items():
        param.grad = mean.get(name)
