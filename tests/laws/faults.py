"""A configuration that fails where it is told to: for the laws about steps that do not come to their end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import Learner, Outcome, Sink, Subscriber, TrainState, accuracy
from nntrain.values.key import Key
from nntrain.values.output import BatchOutput
from tests.laws.strategies import Batch, Setup

POINTS: Final = (
    "before_fit",
    "before_epoch",
    "before_batch",
    "loader",
    "model",
    "model's end",
    "loss",
    "metric",
    "after_batch",
    "after_batch, weights read",
    "optimizer",
    "optimizer's end",
    "after_epoch",
    "after_fit",
)
BEFORE_WRITING: Final = tuple(point for point in POINTS if point != "optimizer's end")
"""Where a failure leaves the state before it whole, kept or not."""


class BlownError(Exception):
    """What the fuse raises: an error of the caller's own."""


def tried(step: Callable[[], Outcome]) -> Outcome | BlownError:
    """Take a step that may blow, and give what came of it."""
    try:
        return step()
    except BlownError as error:
        return error


class Fuse:
    """Blows once, at the chosen point, after it was passed there `passes` times. Copies of it are it."""

    def __init__(self) -> None:
        self._point: str | None = None
        self._passes = 0

    def arm(self, point: str, passes: int) -> None:
        """Choose where and when."""
        self._point, self._passes = point, passes

    def disarm(self) -> None:
        """Let everything pass."""
        self._point = None

    def at(self, point: str) -> None:
        """Pass a point, or blow."""
        if point != self._point:
            return
        if self._passes == 0:
            self._point = None
            raise BlownError(point)
        self._passes -= 1

    def __deepcopy__(self, memo: dict[int, object]) -> Fuse:
        return self


class FusedModel(nn.Module):
    """A model with a fuse at both ends, and two buffers that it writes in training and evaluation alike."""

    calls: Tensor
    replaced: Tensor

    def __init__(self, inner: nn.Module, fuse: Fuse) -> None:
        super().__init__()
        self.inner = inner
        self.fuse = fuse
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("replaced", torch.zeros(2))

    def forward(self, inputs: Tensor) -> Tensor:
        """Count the call, in place and by another tensor in the buffer's place."""
        self.fuse.at("model")
        self.calls.add_(1)
        self.replaced = self.replaced + inputs.detach().mean()
        preds: Tensor = self.inner(inputs)
        self.fuse.at("model's end")
        return preds


class FusedLoader:
    """Batches with a fuse before each."""

    def __init__(self, batches: Sequence[Batch], fuse: Fuse) -> None:
        self._batches = batches
        self._fuse = fuse

    def __len__(self) -> int:
        return len(self._batches)

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Give the batches in their order."""
        for batch in self._batches[start:]:
            self._fuse.at("loader")
            yield batch


class FusedLoaders(NamedTuple):
    """Both phases' loaders."""

    train: Any  # a loader of one's own is no Iterable, which the learner's type asks for
    valid: Any


class FusedSubscriber(Subscriber[Batch]):
    """A fuse at each event; at one point of them, the new weights are read before it blows."""

    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse

    def before_fit(self, state: TrainState) -> TrainState:
        """Pass."""
        self.fuse.at("before_fit")
        return state

    def after_fit(self, state: TrainState) -> TrainState:
        """Pass."""
        self.fuse.at("after_fit")
        return state

    def before_epoch(self, state: TrainState) -> TrainState:
        """Pass."""
        self.fuse.at("before_epoch")
        return state

    def after_epoch(self, state: TrainState) -> TrainState:
        """Pass."""
        self.fuse.at("after_epoch")
        return state

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        """Pass."""
        self.fuse.at("before_batch")
        return state

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        """Pass."""
        self.fuse.at("after_batch")
        if self.fuse._point == "after_batch, weights read":
            dict(state.params)
        self.fuse.at("after_batch, weights read")
        return state


@dataclass(frozen=True)
class Fused:
    """A setup in which everything of the caller's has a fuse; a `quiet` one has no subscriber."""

    setup: Setup
    quiet: bool = False
    fuse: Fuse = field(default_factory=Fuse)

    def learner(
        self,
        subs: Sequence[Subscriber[Batch]] = (),
        sinks: Sequence[Sink] = (),
        lr: float | Callable[[int], float] | None = None,
    ) -> Learner[Batch]:
        """Make a learner; all those made from one `Fused` share its fuse and nothing else."""
        fuse, setup = self.fuse, self.setup

        def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
            fuse.at("loss")
            return cross_entropy(preds, target)

        def metric_fn(preds: Tensor, target: Tensor) -> Tensor:
            fuse.at("metric")
            return accuracy(preds, target)

        def optimizer(params: Any, *, lr: float, **more: Any) -> torch.optim.Optimizer:
            made = setup.make_optimizer()(params, lr=lr, **more)
            step = made.step

            @functools.wraps(step)
            def fused_step(*args: Any, **kwargs: Any) -> object:
                fuse.at("optimizer")
                result: object = step(*args, **kwargs)
                fuse.at("optimizer's end")
                return result

            if not setup.capture:  # a step that was replaced is never recorded
                made.step = fused_step  # type: ignore[assignment] # on this one optimizer
            return made

        return Learner(
            FusedModel(setup.make_model(), fuse),
            FusedLoaders(FusedLoader(setup.batches("train"), fuse), FusedLoader(setup.batches("valid"), fuse)),
            loss_fn,
            metric_fn,
            optimizer,
            setup.lr if lr is None else lr,
            [*([] if self.quiet else [FusedSubscriber(fuse)]), *subs],
            sinks=sinks,
            device=setup.device,
            capture=setup.capture,
            update=setup.make_update(optimizer),
        )
