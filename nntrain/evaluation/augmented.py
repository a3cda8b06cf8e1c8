"""`tta`: test-time augmentation, the mean of what is predicted of a batch as it is changed at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Never, TypeVar

import torch
from torch import Tensor

from nntrain.data.loaders import Loader
from nntrain.data.transformed import Transformed, mixing_parts, transformed
from nntrain.errors import ConfigError, DataError
from nntrain.evaluation.evaluate import predict
from nntrain.machine.learner import Learner
from nntrain.machine.machine import machine_of
from nntrain.task.carrying import Carried
from nntrain.task.supervised import Unpacked
from nntrain.values.calls import call_problem
from nntrain.values.key import Key
from nntrain.values.numbers import is_count, is_number
from nntrain.values.state import TrainState
from nntrain.values.trees import described, tensors_of, tree_map

Batch = TypeVar("Batch")
Given = TypeVar("Given")
Preds = TypeVar("Preds")

_VIEWS = 0x747461
"""What the key is folded with for the changes of a batch, each of which has a number of its own."""


def tta(
    learner: Learner[Batch, Preds],
    state: TrainState,
    loader: Iterable[Given] | Loader[Given],
    *transforms: Callable[[Given], Given],
    passes: int = 4,
    beta: float = 0.25,
    activation: Callable[[Preds], Preds] | None = None,
    unpack: Callable[[Never], Unpacked] | None = None,
    weights: str | None = None,
) -> Iterator[Preds]:
    """Return an iterator over mean predictions of each batch of a loader, in order, made as they are asked for.

    A batch is predicted as it is, and `passes` times as the transforms change it. What is given is `beta` of the first
    and `1 - beta` of the mean of the others, as of fastai's `tta`. All is as in `predict`, and the state is untouched;
    what is drawn is a function of the state's key, the epoch, the batch and the pass.

    Args:
        learner: as for `predict`, and so are `state`, `loader`, `unpack` and `weights`.
        transforms: changes of a batch, as `transformed` takes them; none that mixes samples.
        passes: how often a batch is changed, 1 or more.
        beta: the share of the plain prediction, from 0 (which is then not made) to 1.
        activation: what is done with each prediction before the mean: `torch.nn.Softmax(dim=1)` makes it one of
            probabilities. By default it is one of the model's outputs.

    Raises `ConfigError` at once for what cannot be meant; while it is read `DataError` where predictions are not floats
    of one shape, and whatever `predict` and `transformed` raise.
    """
    if not is_count(passes, 1):
        raise ConfigError(f"tta: passes is {passes!r}; expected a whole number of 1 or more.")
    if not is_number(beta) or not 0 <= beta <= 1:
        raise ConfigError(f"tta: beta is {beta!r}; expected the share of the plain prediction, from 0 to 1.")
    problem = None if activation is None else call_problem(activation, None)
    if problem is not None:
        raise ConfigError(f"tta: activation is {activation!r:.80}; expected a function of the predictions: {problem}.")
    for mixing in (part for one in transforms for part in mixing_parts(one)):
        raise ConfigError(
            f"tta: {type(mixing).__name__} mixes the samples of a batch, and so would be what is predicted of them."
        )
    task = machine_of(learner).task
    if isinstance(task, Carried):
        raise ConfigError(
            f"tta: {task.source} hands on from batch to batch what the model needs, and the views of one batch would "
            f"go on from each other. Predict without it: predict(learner, state, loader)."
        )
    views = _Views(transformed(loader, *transforms), passes, plain=beta > 0)
    found = predict(learner, state, views, unpack=unpack, weights=weights)
    return _means(found if activation is None else map(activation, found), passes, beta)


@dataclass(frozen=True)
class _Views:
    """Each batch of a loader several times: as it is if `plain`, and changed in `passes` ways."""

    changed: Transformed[Any]
    passes: int
    plain: bool

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        """Yield the views of all batches, one batch after the other, from view `start` on."""
        first, skipped = divmod(start, self.passes + self.plain)
        return islice(self._views(key, epoch, first), skipped, None)

    def _views(self, key: Key, epoch: int, first: int) -> Iterator[Any]:
        for index, batch in enumerate(self.changed.loader.batches(key, epoch, first), first):
            bits_of = key.stream(_VIEWS, epoch, index)
            if self.plain:
                yield batch
            for number in range(self.passes):
                yield self.changed.change(batch, index, bits_of(number))

    def to(self, device: torch.device) -> _Views:
        """Return the same views, made on `device`."""
        return replace(self, changed=self.changed.to(device))


def _means(found: Iterator[Preds], passes: int, beta: float) -> Iterator[Preds]:
    while True:
        views = list(islice(found, passes + (beta > 0)))
        if not views:
            return
        yield _mean(views, beta)


def _mean(views: list[Preds], beta: float) -> Preds:
    """Return the mean of trees of tensors, of which the first, where `beta` is above 0, has that share."""
    rows = [[*tensors_of(view)] for view in views]
    shapes = [[tensor.shape for tensor in row] for row in rows]
    other = next((view for view, given in zip(views, shapes, strict=True) if given != shapes[0]), None)
    if other is not None or not rows[0] or not all(tensor.is_floating_point() for tensor in rows[0]):
        said = "" if other is None else f", and of another pass {described(other):.200}"
        raise DataError(
            f"tta: the predictions of a batch are {described(views[0]):.200}{said}; expected tensors of floats, of the "
            f"same shapes in each pass, which have a mean."
        )
    means = {}
    for first, *others in zip(*rows, strict=True):
        mean = torch.stack(others if beta > 0 else [first, *others]).mean(0)
        means[id(first)] = torch.lerp(mean, first, beta) if beta > 0 else mean

    def mean_of(tensor: Tensor) -> Tensor:
        return means[id(tensor)]

    made: Preds = tree_map(views[0], mean_of)
    return made
