"""`Confusion`: which class was taken for which, over a whole phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Never, cast

import torch
from torch import Tensor

from nntrain.errors import ConfigError, MetricError
from nntrain.values.calls import call_problem
from nntrain.values.numbers import is_count
from nntrain.values.output import StepOutput
from nntrain.values.trees import described

Classify = Callable[[Never], Tensor]
"""A function of predictions to the class of each: whole numbers. What predictions are is between it and the model."""
IGNORED: Final = -100
"""The target that is left out: torch's `ignore_index`."""


class Counts(NamedTuple):
    """What `Confusion` remembers: the matrix, int64 of [classes, classes], and how many pairs have what is no class."""

    matrix: Tensor
    wrong: Tensor


class Confusion:
    """A metric of a whole phase, whose value is the mean of the classes' recalls: the balanced accuracy.

    Its memory has the confusion matrix: in the row of each class, how often it was taken for which. `ConfusionLog` logs
    it at the end of each phase. Classes without a sample are left out of the mean, and targets of -100 (torch's
    `ignore_index`) out of all.

    Args:
        classes: how many there are.
        classify: predictions to classes; by default the greatest of [N, classes, ...] is taken, and whole numbers are
            taken as they are.

    Raises `ConfigError` for what is no number of classes, and `MetricError` for what is no class: on a CPU in the batch
    that has it, elsewhere at the end of the phase, so that no batch waits for the device.
    """

    def __init__(self, classes: int, classify: Classify | None = None) -> None:
        if not is_count(classes, 1):
            raise ConfigError(f"Confusion: classes is {classes!r:.80}; expected how many there are, 1 or more.")
        check_classify(classify, "Confusion")
        self.classes = classes
        self.classify = classify

    def init(self) -> Counts:
        """Return the matrix of no samples."""
        return Counts(torch.zeros(self.classes, self.classes, dtype=torch.int64), torch.zeros((), dtype=torch.int64))

    def update(self, memory: Counts, output: StepOutput[object], /) -> Counts:
        """Return the matrix with a batch more."""
        target, taken = pairs_of(output.preds, output.target, self.classify)
        if target.device.type == "cpu":
            check_classes(target, taken, self.classes)
        found = counted(target, taken, self.classes)
        return self.merge(memory, found)

    def merge(self, one: Counts, other: Counts, /) -> Counts:
        """Return the matrix of the samples of both."""
        return Counts(one.matrix + other.matrix, one.wrong + other.wrong)

    def compute(self, memory: Counts, /) -> Tensor:
        """Return the mean of the recalls of the classes that have a sample; NaN where none has."""
        if memory.wrong:
            raise MetricError(
                f"Of {int(memory.wrong):,} predictions or targets the class is none: expected whole numbers from 0, "
                f"below {self.classes}."
            )
        return (memory.matrix.diagonal().double() / memory.matrix.sum(1)).nanmean()


def check_classify(classify: object, where: str) -> None:
    """Raise `ConfigError` for what is no function of predictions; None is one."""
    problem = None if classify is None else call_problem(classify, "preds")
    if problem is not None:
        raise ConfigError(f"{where}: classify is {classify!r:.80}; expected a function of the predictions: {problem}.")


def pairs_of(preds: object, target: object, classify: Classify | None) -> tuple[Tensor, Tensor]:
    """Return the class of each sample, and the one that it was taken for, flat.

    Raises `MetricError` where that cannot be told of their shapes and dtypes.
    """
    found = preds if classify is None else cast("Callable[[object], object]", classify)(preds)
    if isinstance(target, Tensor) and isinstance(found, Tensor):
        if classify is None and found.ndim == target.ndim + 1:
            found = found.argmax(1)
        if found.shape == target.shape and (classify is not None or not found.is_floating_point()):
            return target.flatten(), found.flatten()
    raise MetricError(
        f"The predictions are {described(found):.200} and the target {described(target):.200}; expected logits of "
        f"[N, classes, ...] and classes of [N, ...], or what class each prediction is of: "
        f"classify=lambda preds: (preds > 0).long()."
    )


def counted(target: Tensor, taken: Tensor, classes: int) -> Counts:
    """Return the confusion matrix of some samples, with no wait for a device."""
    wrong = (target != IGNORED) & (_is_none(target, classes) | _is_none(taken, classes))
    beyond = classes * classes
    places = torch.where(wrong | (target == IGNORED), beyond, target * classes + taken).long()
    counts = torch.zeros(beyond + 1, dtype=torch.int64, device=places.device)
    counts.index_add_(0, places, torch.ones_like(places))
    return Counts(counts[:beyond].reshape(classes, classes), wrong.sum())


def check_classes(target: Tensor, taken: Tensor, classes: int | None) -> None:
    """Raise `MetricError` for what is no class: a fraction, a number below 0, or one of `classes` or more."""
    kept = target != IGNORED
    for name, given in (("target has", target[kept]), ("predictions have", taken[kept])):
        wrong = given[_is_none(given, classes)]
        if len(wrong):
            below = "" if classes is None else f", below {classes}"
            raise MetricError(f"The {name} {wrong[0].item():g}; expected classes: whole numbers from 0{below}.")


def _is_none(given: Tensor, classes: int | None) -> Tensor:
    """Return where a number is no class."""
    wrong = (given != given.long()) | (given < 0)
    return wrong if classes is None else wrong | (given >= classes)
