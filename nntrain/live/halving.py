"""`Halving`: a batch that runs out of memory is tried again in twice as many parts, whose mean is the batch's.

It is law 12 within one batch: each part's gradients count by its weight, as `accumulate` counts those of batches. So
the batch is one step still, and its loss, metrics and predictions are those of all its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from nntrain.errors import ConfigError, DataError, add_note
from nntrain.live.engine import Pass
from nntrain.live.resident import out_of_memory
from nntrain.task.batches import samples_of
from nntrain.task.task import checked_weight, source_of
from nntrain.update.accumulating import BoundAccumulate
from nntrain.values.log_event import Note
from nntrain.values.output import StepOutput, without_graph
from nntrain.values.randomness import seed_all
from nntrain.values.sums import Weight
from nntrain.values.trees import described, joined_rows, row_count, rows_between

Batch = TypeVar("Batch")
MOST_PARTS: Final = 64
"""In how many parts a batch is tried at most."""


class Halving(Generic[Batch]):
    """Passes batches through in as many parts as fit in memory. How many these are is kept for the batches after."""

    def __init__(
        self,
        plain: Pass[Batch],
        own: Callable[[Tensor], Tensor],
        *,
        tell: Callable[[Note], None],
        warn: Callable[[Note], None],
    ) -> None:
        workspace = plain.workspace
        why = (
            "the task carries something from batch to batch"
            if plain.carries
            else f"{workspace.optimizer.kind} or a rule around it evaluates the model itself"
            if workspace.needs_closure
            else ""
        )
        if why:
            raise ConfigError(
                f"oom='halve' divides a batch, and {why}, for which it is one. Leave oom out, and take smaller batches."
            )
        self._pass = plain
        self._own = own
        self._tell = tell
        self._warn = warn
        self._warned = False
        self._parts = {True: 1, False: 1}
        """In how many parts batches are passed through, in training and in eval."""

    def output(self, whole: Callable[[], StepOutput[Any]], batch: Batch, *, train: bool, bits: int) -> StepOutput[Any]:
        """Return what the task makes of a batch, by `whole` or in parts, with its gradients made in training.

        What a part that failed wrote is put back before the batch is tried again, under the same seed of `bits`.
        """
        workspace = self._pass.workspace
        while True:
            parts = min(self._parts[train], row_count(batch) or 1)
            try:
                if parts == 1:
                    return whole()
                return workspace.compute(partial(self._of_pieces, _pieces(batch, parts), train=train))
            except Exception as error:
                if not out_of_memory(error):
                    raise
                told = self._divided_again(error, batch, parts, train=train)
                if told is None or not workspace.retry():
                    raise
            # Only here is the error gone, and with it what the pass had in memory.
            self._tell(told)
            if workspace.device.type == "cuda":
                torch.cuda.empty_cache()  # what is free lies in blocks of other sizes
            seed_all(workspace.generators, bits)

    def _divided_again(self, error: Exception, batch: Batch, parts: int, *, train: bool) -> Note | None:
        """Take twice as many parts, and return what is to be told of it; None, with a note, where that cannot be."""
        rows, parts = row_count(batch), 2 * parts
        if parts > min(MOST_PARTS, rows):
            most = f"{parts // 2} parts" if parts > 2 else "one part"
            add_note(error, f"nntrain: oom='halve' tried the batch in {most}, and cannot divide it further")
            return None
        try:
            _pieces(batch, parts)
        except DataError as why:
            add_note(error, f"nntrain: oom='halve' cannot divide the batch: {why}")
            return None
        self._parts[train] = parts
        if train and not self._warned:
            self._warn_of_statistics()
        return Note(
            "memory.halved",
            f"a batch {'to train' if train else 'to evaluate'} on, {described(batch):.200}, ran out of memory: "
            f"{str(error).partition('. ')[0]:.200}. It and those after it go through in {parts} parts",
        )

    def _warn_of_statistics(self) -> None:
        """Warn, once, of layers whose statistics are now of less than a batch."""
        self._warned = True
        modules = self._pass.workspace.module.named_modules()
        norms = [name or "the model" for name, one in modules if isinstance(one, _BatchNorm)]
        if norms:
            self._warn(
                Note(
                    "memory.batch_norm",
                    f"a batch goes through in parts for lack of memory, and {', '.join(norms):.200} takes the mean and "
                    f"variance of each part: the training is not that of whole batches. Take layers without such "
                    f"statistics (GroupNorm, LayerNorm), or batches that fit.",
                )
            )

    def _of_pieces(self, pieces: Sequence[Batch], *, train: bool) -> StepOutput[Any]:
        """Return what the task makes of all pieces, without a graph; in training the gradients are those of all."""
        plain = self._pass
        trained = plain.trained
        window = BoundAccumulate(len(pieces), {name: param.dtype for name, param in trained.items()})
        outputs: list[StepOutput[Any]] = []
        weights: list[Weight] = []
        for number, piece in enumerate(pieces):
            output = plain.evaluate(piece, train=train, again=number > 0)
            weight = self._weight_of(output, piece)
            if train:
                _backward(output.loss, plain)
                gradients = {name: grad for name, param in trained.items() if (grad := param.grad) is not None}
                for param in plain.workspace.params.values():
                    param.grad = None
                if window.full:
                    for name, mean in window.mean(gradients, weight).items():
                        trained[name].grad = mean
                else:
                    window.add(window.weighed(gradients, weight))
            outputs.append(without_graph(output, self._own, output.weight))
            weights.append(weight)
            del output
        return _joined(outputs, weights, [row_count(piece) for piece in pieces])

    def _weight_of(self, output: StepOutput[Any], piece: Batch) -> Weight:
        """Return how much a piece weighs; 0 is fine, as long as the batch weighs more."""
        if output.weight is None:
            return samples_of(output.target, piece)
        return checked_weight(output.weight, source_of(self._pass.task))


def _pieces(batch: Batch, parts: int) -> list[Batch]:
    rows = row_count(batch)
    return [rows_between(batch, part * rows // parts, (part + 1) * rows // parts) for part in range(parts)]


def _backward(loss: Tensor | None, plain: Pass[Any]) -> None:
    if loss is not None and loss.requires_grad:  # else the gradients were made with it
        plain.scaled_loss(loss).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped


def _joined(outputs: Sequence[StepOutput[Any]], weights: Sequence[Weight], rows: Sequence[int]) -> StepOutput[Any]:
    """Return the output of a batch, of which these are the parts'."""

    def mean(values: Sequence[Tensor]) -> Tensor:
        return _mean(values, weights)

    losses = [output.loss for output in outputs if output.loss is not None]
    names = outputs[0].parts
    if any(output.parts.keys() != names.keys() for output in outputs) or 0 < len(losses) < len(outputs):
        raise DataError("the parts of the batch have not all the same losses")
    said = [output.weight for output in outputs if output.weight is not None]
    return StepOutput(
        mean(losses) if losses else None,
        joined_rows([output.preds for output in outputs], rows, mean),
        joined_rows([output.target for output in outputs], rows, mean),
        sum(weights[1:], weights[0]) if said else None,
        {name: mean([output.parts[name] for output in outputs]) for name in names},
    )


def _mean(values: Sequence[Tensor], weights: Sequence[Weight]) -> Tensor:
    """Return the mean of 0-dim tensors, each counting by its weight; one that weighs 0 does not, whatever it is."""
    if not values[0].is_floating_point() and not values[0].is_complex():
        return values[-1]
    wide = torch.promote_types(values[0].dtype, torch.float32)
    shares = [torch.as_tensor(one, dtype=wide, device=values[0].device) for one in weights]
    total = torch.stack(shares).sum()
    counted = [torch.where(share != 0, value * share, 0) for value, share in zip(values, shares, strict=True)]
    return (torch.stack(counted).sum() / torch.where(total != 0, total, 1)).to(values[0].dtype)
