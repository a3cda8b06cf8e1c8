"""Generated runs: small trainings as values, whose losses fall, rise, or become NaN."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain.data.dataloaders import DataLoaders
from nntrain.live.engine import Engine
from nntrain.machine.learner import Learner
from nntrain.metrics.functions import accuracy
from nntrain.sinks.interest import Sink
from nntrain.subscribers.protocol import Listening
from nntrain.task.supervised import supervised
from nntrain.testing.examples import st
from nntrain.update.rule import UpdateRule
from nntrain.values.randomness import seeded

Batch = TypeVar("Batch")
Pair = tuple[Tensor, Tensor]
"""A batch of the kit's own learner: inputs [B, 4], and classes [B]."""
MakeLearner = Callable[[Sequence[Listening[Batch]]], Learner[Batch]]
"""Makes a new learner with the given subscribers, the same one each time."""

_INPUTS: Final = 4
_CLASSES: Final = 3


@dataclass(frozen=True)
class Plan:
    """A run of a small classifier: `train` and `valid` are the sizes of the batches.

    The inputs of train batch `spoilt` (modulo their number) are NaN.
    """

    epochs: int = 1
    train: tuple[int, ...] = (2,)
    valid: tuple[int, ...] = (2,)
    lr: float = 0.1
    seed: int = 0
    spoilt: int | None = None

    def __str__(self) -> str:
        train, valid = (", ".join(map(str, sizes)) for sizes in (self.train, self.valid))
        batches = f"train batches of {train}, valid batches of {valid} samples"
        spoilt = "" if self.spoilt is None else f", train batch {self.spoilt % len(self.train)} is of NaN"
        return f"epochs={self.epochs}, {batches}, lr={self.lr}, seed={self.seed}{spoilt}"


@dataclass(frozen=True)
class Trial(Generic[Batch]):
    """A run to try: the function that makes its learner, its epochs, its seed, and its description."""

    make: MakeLearner[Batch]
    epochs: int
    seed: int
    said: str

    def __str__(self) -> str:
        return self.said

    def learner(self, subs: Sequence[Listening[Batch]], sinks: Sequence[Sink] = ()) -> Learner[Batch]:
        """Return a new learner, with the same weights each time. Sinks are added to its own."""
        with seeded(self.seed):
            made = self.make(subs)
        return made.replace(sinks=(*made.sinks, *sinks)) if sinks else made


def plans() -> st.SearchStrategy[Plan]:
    """Return a strategy for plans, which shrinks to one epoch of one batch."""
    sizes = st.lists(st.integers(2, 3), min_size=1, max_size=3).map(tuple)
    return st.builds(
        Plan,
        epochs=st.integers(1, 3),
        train=sizes,
        valid=sizes,
        lr=st.sampled_from([0.1, 2.0, 50.0]),
        seed=st.integers(0, 3),
        spoilt=st.none() | st.integers(0, 2),
    )


def runs_of(make: MakeLearner[Any] | None, device: torch.device | str) -> st.SearchStrategy[Trial[Any]]:
    """Return a strategy for runs of the user's learner, or of the kit's own small one on `device`."""
    if make is None:
        return plans().map(
            lambda plan: Trial(lambda subs: small_learner(plan, subs, device=device), plan.epochs, plan.seed, str(plan))
        )
    return st.builds(
        lambda epochs, seed: Trial(make, epochs, seed, f"your learner, epochs={epochs}, seed={seed}"),
        epochs=st.integers(1, 2),
        seed=st.integers(0, 3),
    )


def small_learner(
    plan: Plan, subs: Sequence[Listening[Pair]] = (), *, device: torch.device | str = "cpu"
) -> Learner[Pair]:
    """Return the learner of a plan: an MLP with three classes and SGD, the same each time."""
    return Learner(
        small_model(plan.seed),
        _loaders(plan),
        cross_entropy,
        accuracy,
        functools.partial(torch.optim.SGD, momentum=0.9),
        plan.lr,
        subs,
        device=device,
    )


def updated_learner(plan: Plan, update: UpdateRule, *, device: torch.device | str = "cpu") -> Learner[Pair]:
    """Return the same learner with another update rule."""
    task = supervised(cross_entropy, accuracy)
    engine = Engine(device=device)
    return Learner.of(small_model(plan.seed), _loaders(plan), task, update, engine=engine)


def small_model(seed: int) -> nn.Module:
    """Return an MLP of four inputs and three classes, the same each time."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(_INPUTS, 5), nn.Tanh(), nn.Linear(5, _CLASSES))


def _loaders(plan: Plan) -> DataLoaders[Pair]:
    train = small_batches(plan.train, plan.seed)
    if plan.spoilt is not None:
        inputs, target = train[plan.spoilt % len(train)]
        train[plan.spoilt % len(train)] = torch.full_like(inputs, math.nan), target
    return DataLoaders(train, small_batches(plan.valid, plan.seed + 1000))


def small_batches(sizes: Sequence[int], seed: int) -> list[Pair]:
    """Return batches of these sizes for the small model, the same each time."""
    source = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, _INPUTS, generator=source), torch.randint(0, _CLASSES, (size,), generator=source))
        for size in sizes
    ]
