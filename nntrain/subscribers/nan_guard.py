"""Stop a fit whose loss is no number, and say which tensor was the first that was none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.events import AnswerBatch, AnswerEpoch, BatchOutput, Subscriber
from nntrain.records import TrainState
from nntrain.verdicts import CancelFit


class NanGuard(Subscriber[object]):
    """Cancel the fit when a loss is not finite, with a reason that names the first bad tensor.

    On a CPU it looks at the loss of every batch; on a device, where looking waits for it, at the running sums of every
    `every`th batch of a phase, in which nothing that is not finite gets lost, and at each phase's mean. The first bad
    tensor is looked for where it would come from: in the batch, in what the model made of it, then among the parameters
    and buffers, which are those after the batch. It keeps nothing, and changes nothing.
    """

    def __init__(self, every: int = 50, *, order: int = 0) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ConfigError(f"every is {every!r}; expected a whole number of batches, 1 or more.")
        self.every = every
        self.order = order

    def after_batch(self, state: TrainState, batch: object, output: BatchOutput) -> AnswerBatch:
        """Look at the loss, where that waits for nothing, or it is time."""
        if not self._waits(output.loss):
            loss = output.loss.item()
        elif state.progress.batch % self.every == 0:
            loss = state.sums.totals.tolist()[0] / state.sums.samples
        else:
            return state
        return state if math.isfinite(loss) else _stop(state, loss, {"batch": batch, "preds": output.preds})

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """Look at the phase's mean."""
        if not state.history:
            return state
        last, place = state.history[-1], state.progress
        if (last.epoch, last.phase) != (place.epoch, place.phase) or math.isfinite(last.loss):
            return state
        return _stop(state, last.loss, {})

    @staticmethod
    def _waits(loss: Tensor) -> bool:
        return loss.device.type != "cpu"


def _stop(state: TrainState, loss: float, seen: Mapping[str, object]) -> CancelFit:
    place = state.progress
    where = f"by step {place.step} (epoch {place.epoch}, {place.phase}, after {place.batch} batches)"
    with state.borrow() as tensors:
        kinds = state.tensors.spec.params
        named = {f"{'params' if name in kinds else 'buffers'}/{name}": tensor for name, tensor in tensors.items()}
        found = next(filter(None, (_bad(name, one) for name, one in _leaves({**seen, **named}))), None)
    said = f"first bad tensor: {found}" if found else "no tensor that it can come from is bad but the loss itself"
    return CancelFit(reason=f"the loss is {loss} {where}; {said}", state=state)


def _bad(name: str, tensor: Tensor) -> str | None:
    """Say how many of a tensor's values are not finite, if any."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    with torch.no_grad():
        count = int(tensor.isfinite().logical_not().sum())
    return f"{name}, {count:,} of {tensor.numel():,} values are not finite" if count else None


def _leaves(named: Mapping[str, object]) -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of trees of tuples, lists, mappings and dataclasses, by where they stand in Python's words."""
    for name, tree in named.items():
        if isinstance(tree, Tensor):
            yield name, tree
        elif isinstance(tree, Mapping):
            yield from _leaves({f"{name}[{key!r}]": part for key, part in tree.items()})
        elif isinstance(tree, (tuple, list)):
            yield from _leaves({f"{name}[{index}]": part for index, part in enumerate(tree)})
        elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
            fields = dataclasses.fields(tree)
            yield from _leaves({f"{name}.{field.name}": getattr(tree, field.name) for field in fields})
