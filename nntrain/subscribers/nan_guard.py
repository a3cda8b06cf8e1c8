"""Stop a fit whose loss is not finite, and name the first tensor that is not finite."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.subscribers.protocol import AnswerBatch, AnswerEpoch, Subscriber
from nntrain.values.numbers import is_count
from nntrain.values.output import BatchOutput
from nntrain.values.shards import own_part
from nntrain.values.state import TrainState
from nntrain.values.tensors import Snapshot
from nntrain.values.verdicts import CancelFit


def waits_for_device(loss: Tensor) -> bool:
    """Return whether reading a loss waits for a device."""
    return not loss.is_cpu


class NanGuard(Subscriber[object]):
    """Cancel the fit when a loss is not finite, with a reason that names the first bad tensor.

    On a CPU it checks the loss of every batch. On another device, where reading a loss waits, it checks the phase's
    running sum of the loss, in which a NaN or an infinity stays, at every `every`th batch; and the mean of each phase
    at its end. It checks losses only, not metrics.

    A bad tensor has a value that is NaN or infinite. The reason names the first one in the order of causes: in the
    batch (`batch[0]`, `batch['pixels']`), in the predictions (`preds`), then among parameters and buffers in the
    model's order (`params/0.weight`, `buffers/1.running_mean`), with how many of its values are bad, and of which
    kinds, since an infinity may be intended, as in a mask; else it is the loss itself. The reason says what can no
    longer be checked: after a train batch, parameters and buffers are those after its step, and on a device the batch
    may be an earlier one.

    It needs no memory in the state and changes nothing else: a fit whose losses are finite keeps its bits.
    """

    def __init__(self, every: int = 50, *, order: int = 0) -> None:
        if not is_count(every, 1):
            raise ConfigError(f"every is {every!r}; expected a whole number of batches, 1 or more.")
        self.every = every
        self.order = order

    def after_batch(self, state: TrainState, batch: object, output: BatchOutput) -> AnswerBatch:
        """Check the batch's loss, or on a device, at every `every`th batch, the phase's running sum."""
        place = state.progress
        if not output.has_loss:
            return state
        if not waits_for_device(output.loss):
            loss = output.loss.item()
            if math.isfinite(loss):
                return state
            return CancelFit(reason=f"the loss is {loss} at {_place(state)}; {_in_batch(state, batch, output)}")
        if place.batch % self.every:
            return state
        mean = state.sums.means()[0]
        if math.isfinite(mean):
            return state
        if math.isfinite(output.loss.item()):
            found = _in_model(state, f"the loss of a batch before batch {place.batch}")
        else:
            since = f"; looked at every {self.every} batches, so an earlier one may have begun it"
            found = _in_batch(state, batch, output) + (since if self.every > 1 else "")
        return CancelFit(reason=f"the mean loss so far is {mean} at {_place(state)}; {found}")

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """Check the phase's mean, which has been read already."""
        place = state.progress
        if not state.history:
            return state
        stats = state.history[-1]
        if (stats.epoch, stats.phase) != (place.epoch, place.phase):
            return state
        if math.isfinite(stats.loss) or not stats.has_loss:
            return state
        found = _in_model(state, "the loss of one of its batches")
        return CancelFit(reason=f"the mean loss is {stats.loss} at the end, {_place(state)}; {found}")


def _place(state: TrainState) -> str:
    place = state.progress
    return f"batch {place.batch} of {place.phase}, epoch {place.epoch}, step {place.step}"


def _in_batch(state: TrainState, batch: object, output: BatchOutput) -> str:
    """Return in words the first bad tensor of the current batch, whose own loss is bad."""
    train, step = state.progress.phase == "train", state.progress.step
    found = _first_bad(_leaves("batch", batch))
    if found:
        return f"first bad tensor: {found}"
    found = _first_bad(_leaves("preds", output.preds))
    if found and train:
        # The step used a bad gradient, so after it good parameters may be bad too.
        before = f"what parameters and buffers were before step {step} cannot be seen after it"
        return f"first bad tensor: {found}; none seen in the batch, and {before}"
    model = _first_bad_of_model(state)
    if found:
        rest = "; none seen in the batch" if model else "; none seen in batch, parameters or buffers"
        return f"first bad tensor: {found}{f', made with {model}' if model else ''}{rest}"
    if not train:
        if model:
            return f"first bad tensor: {model}; none seen in batch or preds"
        return "first bad tensor: the loss itself; none seen in batch, preds, parameters or buffers"
    after = f"; after step {step}: {model}" if model else f", nor after step {step} in parameters or buffers"
    return f"first bad tensor: the loss itself; none seen in batch or preds{after}"


def _in_model(state: TrainState, loss: str) -> str:
    """Return in words the first bad tensor where the bad batch is gone, and only the model is left."""
    train, step = state.progress.phase == "train", state.progress.step
    model = _first_bad_of_model(state)
    if model and not train:
        return f"first bad tensor seen: {model}; the tensors of the batch with the bad loss are gone"
    after = f"; after step {step}: {model}" if model else "; none seen in parameters or buffers"
    return f"first bad tensor: {loss}, whose other tensors are gone{after}"


def _first_bad_of_model(state: TrainState) -> str | None:
    """Return in words the first bad tensor of the model; of what is sharded over ranks in this rank's part."""

    def found(snapshot: Snapshot) -> str | None:
        kinds: dict[str, Mapping[str, Tensor]] = {"params": snapshot.params, "buffers": snapshot.buffers}
        return _first_bad(
            (f"{kind}/{name}", own_part(tensor.detach()))
            for kind, tensors in kinds.items()
            for name, tensor in tensors.items()
        )

    return state.tensors.read(found)


def _first_bad(named: Iterable[tuple[str, Tensor]]) -> str | None:
    return next(filter(None, (_bad(name, tensor) for name, tensor in named)), None)


def _bad(name: str, tensor: Tensor) -> str | None:
    """Return in words how many of a tensor's values are not finite, and of which kinds; None where all are finite."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    values = _values(tensor)
    count = int(values.isfinite().logical_not().sum())
    if not count:
        return None
    numbers = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    has = {"nan": numbers.isnan(), "inf": numbers == math.inf, "-inf": numbers == -math.inf}
    kinds = ", ".join(kind for kind, where in has.items() if where.any())
    return f"{name}, {count:,} of {values.numel():,} values not finite ({kinds})"


def _values(tensor: Tensor) -> Tensor:
    """Return the stored values of a tensor: sparse and nested ones support few operations themselves."""
    if tensor.layout == torch.sparse_coo:
        return tensor.coalesce().values()
    if tensor.is_nested or tensor.layout != torch.strided:
        return tensor.values()
    return tensor


def _leaves(name: str, tree: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree of tuples, lists, mappings and dataclasses, with their Python expressions."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from _leaves(f"{name}[{key!r}]", part)
    elif isinstance(tree, (tuple, list)):
        fields = getattr(tree, "_fields", None)
        for index, part in enumerate(tree):
            yield from _leaves(f"{name}.{fields[index]}" if fields else f"{name}[{index}]", part)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from _leaves(f"{name}.{field.name}", getattr(tree, field.name))
