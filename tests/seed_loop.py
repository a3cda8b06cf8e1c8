"""The seed's training loop, transcribed: the oracle of law 6.

A learner that publishes six events around fit, epoch and batch, and three exceptions by which a subscriber cancels
the rest of one of these scopes. It is the loop of the original blog post (itself after fastai's and miniai's): mutable,
with exceptions as control flow, and short enough to be seen to be right. nntrain must publish the same events,
print the same lines and end with the same weights. Beyond the original it may evaluate several sets by name, or none,
and train a number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TextIO

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Arguments = ParamSpec("Arguments")


class CancelFitException(Exception):  # noqa: N818 - the original's name
    """Skip what is left of the fit."""


class CancelEpochException(Exception):  # noqa: N818 - the original's name
    """Skip what is left of this phase of the epoch."""


class CancelBatchException(Exception):  # noqa: N818 - the original's name
    """Skip what is left of this batch."""


CANCELS: Final[dict[str, type[Exception]]] = {
    "fit": CancelFitException,
    "epoch": CancelEpochException,
    "batch": CancelBatchException,
}


class PublishEvents:
    """Decorate a method of the learner: publish before_<name>, run it, publish after_<name>.

    The scope's own cancel exception ends all three, wherever in them it was raised; the others pass through.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self, body: Callable[Concatenate[Learner, Arguments], None]
    ) -> Callable[Concatenate[Learner, Arguments], None]:
        def published(learner: Learner, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            try:
                learner.publish(f"before_{self.name}")
                body(learner, *args, **kwargs)
                learner.publish(f"after_{self.name}")
            except CANCELS[self.name]:
                pass

        return published


class Learner:
    """The original's learner: it trains `model` itself, and its subscribers read its attributes."""

    def __init__(
        self,
        model: nn.Module,
        train: Sequence[Batch],
        valid: Sequence[Batch] | Mapping[str, Sequence[Batch]] | None,
        *,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        metric_fn: Callable[[Tensor, Tensor], Tensor],
        optim_class: Callable[..., torch.optim.Optimizer],
        lr: float,
        subs: Sequence[object],
        file: TextIO,
    ) -> None:
        self.model = model
        self.train = train
        self.sets = valid if isinstance(valid, Mapping) else {} if valid is None else {"": valid}
        self.steps: int | None = None
        self.loss_fn = loss_fn
        self.metric_fn = metric_fn
        self.optimizer = optim_class(model.parameters(), lr=lr)
        self.subs = subs
        self.file = file
        self.epoch = 0
        self.phase = "train"
        self.data = ""
        self.batch_index = 0
        self.batch: Batch = train[0]
        self.step = 0
        self.samples = 0
        self.loss_sum = 0.0
        self.metric_sum = 0.0
        self.history: list[tuple[int, str, float, float, int]] = []

    def publish(self, event: str) -> None:
        """Call each subscriber that has a method named as the event: by order, then as registered."""
        for subscriber in sorted(self.subs, key=lambda one: int(getattr(one, "order", 0))):
            method: Any = getattr(subscriber, event, None)
            if method is not None:
                method(self)

    @PublishEvents("fit")
    def fit(self, epochs: int, steps: int | None = None) -> None:
        """Train, then evaluate, `epochs` times, or until so many steps are taken."""
        self.steps = steps
        epoch = 0
        while epoch < epochs if steps is None else self.step < steps:
            self.epoch = epoch
            self.one_epoch(train=True)
            with torch.no_grad():
                for name in self.sets:
                    self.one_epoch(train=False, data=name)
            epoch += 1

    def one_epoch(self, *, train: bool, data: str = "") -> None:
        """Run one phase: the model in its mode, the sums at nought."""
        self.phase = "train" if train else "eval"
        self.data = data
        self.model.train(train)
        self.batch_index = 0
        self.samples = 0
        self.loss_sum = 0.0
        self.metric_sum = 0.0
        self.all_batches(self.train if train else self.sets[data])

    @PublishEvents("epoch")
    def all_batches(self, batches: Sequence[Batch]) -> None:
        """Run each batch of a phase, then finish its statistics."""
        for index, batch in enumerate(batches):
            if self.phase == "train" and self.step == self.steps:
                break
            self.batch_index = index
            self.batch = batch
            self.one_batch()
        if self.samples:
            loss, metric = self.loss_sum / self.samples, self.metric_sum / self.samples
            self.history.append((self.epoch, self.phase, loss, metric, self.samples))
            line = f"epoch={self.epoch:02d} | {self.data or self.phase:<5} | loss={loss:.3f} | metric={metric:.3f}"
            print(line, file=self.file)

    @PublishEvents("batch")
    def one_batch(self) -> None:
        """Predict, and in training learn; add to the sums."""
        inputs, target = self.batch
        preds = self.model(inputs)
        loss = self.loss_fn(preds, target)
        if self.phase == "train":
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
        count = len(target)
        self.samples += count
        self.loss_sum += loss.item() * count
        self.metric_sum += self.metric_fn(preds.detach(), target).item() * count
