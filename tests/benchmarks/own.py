"""The loops that need nothing installed: the hand-written one, the original's, and nntrain's."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from nntrain import DataLoaders, Learner, Sink, Subscriber, TrainState, Transition, accuracy
from nntrain.log import JsonLog
from nntrain.values.output import BatchOutput
from tests import seed_loop
from tests.benchmarks.setting import LR, Batches, Loop, Prepared, Reported


def takes_each(transition: Transition) -> None:
    """Be a sink of each batch, and do nothing."""


class PassThrough(Subscriber[tuple[Tensor, Tensor]]):
    """Answers the state it is shown, at both batch events."""

    def before_batch(self, state: TrainState, batch: tuple[Tensor, Tensor]) -> TrainState:
        return state

    def after_batch(self, state: TrainState, batch: tuple[Tensor, Tensor], output: BatchOutput) -> TrainState:
        return state


def epoch_by_hand(
    model: nn.Module, optimizer: torch.optim.Optimizer, train: Batches, valid: Batches
) -> list[tuple[float, float]]:
    """Train and evaluate one epoch as one would write it by hand. Gives (loss, accuracy) of each phase.

    The sums are numbers on a CPU, where reading one waits for nothing, and tensors on a device.
    """
    figures = []
    read = torch.Tensor.item if next(model.parameters()).device.type == "cpu" else torch.Tensor.detach
    for phase, batches in (("train", train), ("eval", valid)):
        model.train(phase == "train")
        loss_sum: Tensor | float = 0.0
        accuracy_sum: Tensor | float = 0.0
        samples = 0
        with torch.set_grad_enabled(phase == "train"):
            for inputs, target in batches:
                preds = model(inputs)
                loss = nn.functional.cross_entropy(preds, target)
                if phase == "train":
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
                    optimizer.step()
                loss_sum += read(loss) * len(inputs)
                accuracy_sum += read(accuracy(preds.detach(), target)) * len(inputs)
                samples += len(inputs)
        figures.append((float(loss_sum / samples), float(accuracy_sum / samples)))
    return figures


def hand_written(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare the loop that all are measured by."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    figures: list[tuple[float, float]] = []

    def fit() -> None:
        figures.extend(epoch_by_hand(model, optimizer, train, valid))

    return Prepared(fit, lambda: Reported(model.state_dict(), *figures[0], *figures[1]))


def original(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare the transcription of the original loop."""
    learner = seed_loop.Learner(
        copy.deepcopy(model),
        train,
        valid,
        loss_fn=nn.functional.cross_entropy,
        metric_fn=accuracy,
        optim_class=torch.optim.SGD,
        lr=LR,
        subs=[],
        file=io.StringIO(),
    )

    def report() -> Reported:
        (_, _, train_loss, train_accuracy, _), (_, _, valid_loss, valid_accuracy, _) = learner.history
        return Reported(learner.model.state_dict(), train_loss, train_accuracy, valid_loss, valid_accuracy)

    return Prepared(partial(learner.fit, 1), report)


def by_nntrain(
    subs: int = 0, *, sinks: Sequence[Sink] = (), log: bool = False, compile: bool = False, capture: bool = False
) -> Loop:
    """Prepare nntrain, with so many pass-through subscribers on both batch events, sinks, or a log of events in a file.

    The log's file is made within the time that is taken. With `compile` or `capture`, a fit before it has compiled
    or recorded what there is to.
    """

    def prepare(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
        states: list[TrainState] = []
        learner = Learner(
            model,
            DataLoaders(train, valid),
            nn.functional.cross_entropy,
            accuracy,
            torch.optim.SGD,
            LR,
            [PassThrough() for _ in range(subs)],
            sinks=sinks,
            compile=compile,
            capture=capture,
        )
        learner.init()  # sets the learner up, as the others are
        if compile or capture:
            learner.fit(1, print_stats=False)

        def fit(*sinks: Sink) -> None:
            states.clear()  # nobody keeps the one before
            used = learner.replace(sinks=sinks) if sinks else learner
            states.append(used.fit(1, print_stats=False).state)

        def logged() -> None:
            with tempfile.TemporaryDirectory() as folder, JsonLog(Path(folder) / "events.jsonl") as sink:
                fit(sink)

        def report() -> Reported:
            before, after = states[0].history
            return Reported(
                states[0].to_module().state_dict(),
                before.loss,
                before.metrics["metric"],
                after.loss,
                after.metrics["metric"],
            )

        return Prepared(logged if log else fit, report)

    return prepare


OWN: dict[str, Loop] = {
    "hand-written": hand_written,
    "the original's": original,
    "nntrain": by_nntrain(),
    "nntrain, 3 subscribers": by_nntrain(3),
    "nntrain, a sink of each batch": by_nntrain(sinks=[takes_each]),
    "nntrain, event log": by_nntrain(log=True),
}

ON_A_DEVICE: dict[str, Loop] = {
    **OWN,
    "nntrain, compiled": by_nntrain(compile=True),
    "nntrain, captured": by_nntrain(capture=True),
    "nntrain, compiled and captured": by_nntrain(compile=True, capture=True),
}
