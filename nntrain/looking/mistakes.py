"""What a model is wrong about: its confusion matrix, and the samples of the highest loss."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from nntrain.data.loaders import Loader
from nntrain.errors import ConfigError, DataError, LossError
from nntrain.evaluation.evaluate import passes
from nntrain.machine.folding import check_state
from nntrain.machine.learner import Learner
from nntrain.machine.machine import machine_of
from nntrain.metrics.confusion import Counts, check_classes, check_classify, counted, pairs_of
from nntrain.subscribers.protocol import Subscriber
from nntrain.task.carrying import going_on
from nntrain.task.supervised import LossFn, Supervised, called, parts_of
from nntrain.task.task import Called, Task, check_output, source_of
from nntrain.values.looks import ConfusionMatrix
from nntrain.values.numbers import is_count
from nntrain.values.record import Record
from nntrain.values.state import TrainState
from nntrain.values.trees import described, first_length, tree_map

Batch = TypeVar("Batch")
Preds = TypeVar("Preds")


def confusion_matrix(
    learner: Learner[Batch, Preds],
    state: TrainState,
    loader: Iterable[Batch] | Loader[Batch] | str | None = None,
    *,
    labels: Sequence[str] | None = None,
    classify: Callable[[Preds], Tensor] | None = None,
    weights: str | None = None,
) -> ConfusionMatrix:
    """Return how often which class is taken for which, with a state's weights. State and learner are what they were.

    Args:
        learner: whose model and task; it must not be amid a step.
        state: with the weights.
        loader: the data; by default the learner's `dls.valid`. Of several sets by name, the name of one.
        labels: what the classes are called; by default their numbers.
        classify: predictions to classes; by default the greatest of [N, classes, ...] is taken, and whole numbers are
            taken as they are.
        weights: the name of an update rule whose average is taken for the parameters, like "ema".

    Targets of -100 (torch's `ignore_index`) are left out. Raises `ConfigError` for what cannot be meant, `MetricError`
    for targets or predictions that are no classes, and what the caller's code raises.
    """
    check_classify(classify, "confusion_matrix")
    names = _checked(labels)
    classes = 0 if names is None else len(names)
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    task = machine_of(learner).task
    for preds, target in passes(
        learner, state, loader, _preds_and_target(task), weights=weights, where="confusion_matrix"
    ):
        wanted, taken = pairs_of(preds, target, classify)
        check_classes(wanted, taken, None if names is None else classes)
        if names is None:
            logits = preds.shape[1] if classify is None and preds.ndim == target.ndim + 1 else 0
            highest = max(int(one.max()) + 1 for one in (wanted, taken)) if len(wanted) else 0
            classes = max(classes, logits, highest)
            missing = classes - len(matrix)
            matrix = nn.functional.pad(matrix, (0, missing, 0, missing))
        matrix += counted(wanted, taken, classes).matrix.cpu()
    return _as_record(matrix, names)


class ConfusionLog(Subscriber[object]):
    """Log the confusion matrix of a `Confusion` metric at the end of each phase, as `nntrain.confusion_matrix`.

    `metric` is the metric's name in the learner; `labels` are what the classes are called, by default their numbers. It
    has no memory: the matrix is in the state's sums. Raises `ConfigError` for labels that cannot be meant.
    """

    def __init__(self, metric: str, *, labels: Sequence[str] | None = None, order: int = 0) -> None:
        self.metric = metric
        self.monitors: Collection[str] = (metric,)
        self.labels: tuple[str, ...] | None = _checked(labels)
        self.order = order

    def after_epoch(self, state: TrainState) -> TrainState:
        """Return the state with the matrix of its phase, for the log."""
        found = state.sums.memory.get(self.metric)  # a plain tuple where it was read from a file
        matrix = found[0] if isinstance(found, tuple) and len(found) == len(Counts._fields) else None
        if not isinstance(matrix, Tensor) or matrix.ndim != 2:
            raise ConfigError(
                f"ConfusionLog: the metric {self.metric!r} keeps no confusion matrix; expected a learner with "
                f"metric_fn={{{self.metric!r}: Confusion(...)}}."
            )
        return state.log(_as_record(matrix, self.labels))


def _as_record(matrix: Tensor, labels: Sequence[str] | None) -> ConfusionMatrix:
    names = tuple(map(str, range(len(matrix)))) if labels is None else tuple(labels)
    if len(names) != len(matrix):
        raise ConfigError(f"There are {len(names)} labels and {len(matrix)} classes; expected one for each.")
    return ConfusionMatrix(labels=names, counts=tuple(map(tuple, matrix.tolist())))


def _checked(labels: object) -> tuple[str, ...] | None:
    """Return what classes are called. Raises `ConfigError` for what is no list of different names."""
    if labels is None:
        return None
    names = tuple(labels) if isinstance(labels, Sequence) and not isinstance(labels, str) else ()
    if not names or not all(isinstance(one, str) for one in names) or len({*names}) < len(names):
        raise ConfigError(
            f"labels is {labels!r:.80}; expected what each class is called, like ['cat', 'dog'], or None."
        )
    return names


def _preds_and_target(task: Task[Any, Any]) -> Callable[[nn.Module, Any], tuple[Any, Any]]:
    """Return what makes the predictions and the target of a batch."""
    if isinstance(task, Supervised):

        def of_inputs(model: nn.Module, batch: object) -> tuple[Any, Any]:
            inputs, named, target = parts_of(task.unpack, batch)
            return called(model, inputs, named), target

        return of_inputs

    run = cast(Called[Any], going_on(task))

    def of_task(model: nn.Module, batch: object) -> tuple[Any, Any]:
        found = check_output(run(model, batch), task, train=False)
        if found.preds is None or found.target is None:
            lacking = "preds" if found.preds is None else "target"
            raise LossError(f"{source_of(task)} returned no {lacking}: StepOutput(loss, preds, target).")
        return found.preds, found.target

    return of_task


class Mistake(Record, frozen=True):
    """A sample, and its loss. `index` is its place among the samples as the loader gives them, from 0.

    `preds` and `target` are the sample's own, on the CPU, as trees of tensors without the batch dimension; `batch` is
    what the loader gave of it: its image, say.
    """

    index: int
    loss: float
    preds: object
    target: object
    batch: object


def worst_predictions(
    learner: Learner[Batch, Any],
    state: TrainState,
    loader: Iterable[Batch] | Loader[Batch] | str | None = None,
    *,
    most: int = 9,
    loss_fn: LossFn | None = None,
    weights: str | None = None,
) -> tuple[Mistake, ...]:
    """Return the samples of the highest loss with a state's weights, the worst first. State and learner are unchanged.

    The loss of a sample is that of a batch which has it alone, made from the predictions of the whole batch; one that
    is NaN is the worst. Shuffled data have another order in each epoch: `index` then counts in that of the state's.

    Args:
        learner: whose model and task; it must not be amid a step.
        state: with the weights.
        loader: the data; by default the learner's `dls.valid`. Of several sets by name, the name of one.
        most: how many samples are returned.
        loss_fn: (preds, target) to the loss; by default the learner's, which has none where it has a task of its own.
        weights: the name of an update rule whose average is taken for the parameters, like "ema".

    Raises `ConfigError` for what cannot be meant, `DataError` for predictions or targets that are not of the batch's
    samples, and what the caller's code raises.
    """
    check_state(state)
    if not is_count(most, 1):
        raise ConfigError(f"worst_predictions: most is {most!r}; expected a whole number of 1 or more.")
    task = machine_of(learner).task
    if loss_fn is None:
        if not isinstance(task, Supervised):
            raise ConfigError(
                f"worst_predictions: the loss of {source_of(task)} is of a whole batch. Say what that of one sample's "
                f"predictions and target is: worst_predictions(..., loss_fn=cross_entropy)."
            )
        loss_fn = task.loss_fn
    made_by = _preds_and_target(task)

    def with_batch(model: nn.Module, batch: object) -> tuple[Any, Any, Any]:
        return *made_by(model, batch), batch

    found: list[tuple[float, int, Mistake]] = []
    first = 0
    for preds, target, batch in passes(learner, state, loader, with_batch, weights=weights, where="worst_predictions"):
        losses = [*_losses(loss_fn, preds, target)]
        for at, loss in enumerate(losses):
            rank = math.inf if math.isnan(loss) else loss
            if len(found) < most or rank > found[0][0]:
                one = Mistake(
                    index=first + at,
                    loss=loss,
                    preds=_sample(preds, at, len(losses)),
                    target=_sample(target, at, len(losses)),
                    batch=_sample(batch, at, len(losses)),
                )
                (heapq.heappush if len(found) < most else heapq.heapreplace)(found, (rank, -first - at, one))
        first += len(losses)
    return tuple(one for _, _, one in sorted(found, key=lambda entry: entry[:2], reverse=True))


def _losses(loss_fn: Any, preds: object, target: object) -> Iterator[float]:
    """Yield the loss of each sample of a batch."""
    samples, others = first_length(target), first_length(preds)
    if samples is None or samples != others:
        raise DataError(
            f"worst_predictions: the predictions are {described(preds):.200} and the target {described(target):.200}; "
            f"expected both to have the samples first."
        )
    for at in range(samples):

        def alone(tensor: Tensor, at: int = at) -> Tensor:
            return tensor[at : at + 1] if tensor.ndim and len(tensor) == samples else tensor

        loss: object = loss_fn(tree_map(preds, alone), tree_map(target, alone))
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise LossError(f"loss_fn returned {described(loss):.200}; expected one number as a 0-dim tensor.")
        yield loss.item()


def _sample(tree: object, at: int, samples: int) -> object:
    """Return one sample of a tree, on the CPU, in memory of its own."""

    def taken(tensor: Tensor) -> Tensor:
        return (tensor[at] if tensor.ndim and len(tensor) == samples else tensor).detach().cpu().clone()

    return tree_map(tree, taken)
