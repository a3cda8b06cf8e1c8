"""What mypy must accept and infer. Checked, never run: `tests/typing/test_typing.py`, and mypy itself."""

from __future__ import annotations

import sys
from typing import Any, Literal, assert_never, assert_type

import structlog
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    BatchOutput,
    CancelBatch,
    CancelFit,
    Cancelled,
    Completed,
    DataLoaders,
    EarlyStopping,
    Learner,
    LogEvent,
    Objective,
    Outcome,
    PrintStats,
    RangeTest,
    ReduceOnPlateau,
    Slot,
    StepOutput,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    batch_step,
    carry,
    epoch_step,
    evaluate,
    fit_step,
    lr_find,
    on,
    predict,
    tta,
)
from nntrain.data import RandomCrop, RandomHorizontalFlip, segments, transformed
from nntrain.log import EpochFinished, JsonLog, Line, read, replay
from nntrain.schedules import Curve, cosine, sequence, tuple_of
from nntrain.subscribers.protocol import BeforeFit
from nntrain.update import chain, optimizer, sam, schedule_free
from nntrain.values.record import Record
from nntrain.values.verdicts import Cancel

Batch = tuple[Tensor, Tensor]


class Seen(Record, frozen=True):
    """A record of one's own."""

    batches: int = 0


SEEN = Slot("typing.seen", Seen, default=Seen())


class Mixup(LogEvent, frozen=True):
    """An event of one's own."""

    event: Literal["typing.mixup"] = "typing.mixup"
    alpha: float


class Mixes(Subscriber[Batch]):
    """Logs an event."""

    def before_epoch(self, state: TrainState) -> TrainState:
        """Answer with a state with which an event is told."""
        return state.log(Mixup(alpha=0.5))


def read_log(path: str) -> float:
    """Match the events of a log."""
    total = 0.0
    for line in read(path):
        assert_type(line, Line)
        match line.event:
            case EpochFinished(loss=loss):
                assert_type(loss, float)
                total += loss
            case Mixup(alpha=alpha):
                total += alpha
            case _:
                pass
    (run,) = replay(read(path))
    assert_type(run.history[0].loss, float)
    return total


def logs(model: nn.Module, dls: DataLoaders[Batch]) -> None:
    """A log is a sink, and has many kinds of targets."""
    log = JsonLog("run.jsonl", sys.stdout, structlog.get_logger(), every=50, sync="end")
    Learner(model, dls, cross_entropy, accuracy, torch.optim.SGD, 0.1, [Mixes()], sinks=[log])


def rates(model: nn.Module, dls: DataLoaders[Batch]) -> float:
    """Schedules are functions of the step, of a rate or of a tuple; what is found of a rate are numbers."""
    rising = cosine(0.1, steps=100, warmup_steps=10)
    assert_type(rising, Curve[float])
    assert_type(tuple_of(rising, 0.999)(3), tuple[float, ...])
    assert_type(sequence([rising, lambda step: 0.1 / (1 + step)], at=[100])(3), float)
    learner = Learner(model, dls, cross_entropy, accuracy, torch.optim.SGD, rising, [ReduceOnPlateau()])
    found = lr_find(learner, learner.init())
    assert_type(found, RangeTest)
    assert_type(found.lrs, tuple[float, ...])
    return found.valley


class SkipOdd(Subscriber[Batch]):
    """Overrides two events; answers may be narrower than the event allows."""

    order = 3

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState | CancelBatch:
        """Skip every other batch."""
        inputs, _ = batch
        assert_type(inputs, Tensor)
        if state.progress.batch % 2:
            return CancelBatch(reason="odd")
        return state.put(SEEN, Seen(batches=state.get(SEEN).batches + 1))

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        """Read the loss."""
        assert_type(output.loss, Tensor)
        return state


@on("after_epoch", order=1)
def enough(state: TrainState) -> TrainState | CancelFit:
    """Stop."""
    return CancelFit(reason="enough") if state.history[-1].loss < 0.1 else state


@on("before_batch")
def look(state: TrainState, batch: Batch) -> TrainState:
    """See a batch of this type."""
    return state


class Structural:
    """No subclass: one event's protocol is enough for who asks for no more."""

    order: int = 0

    def before_fit(self, state: TrainState) -> TrainState | CancelFit:
        """Answer."""
        return state


def told_before(listener: BeforeFit) -> BeforeFit:
    """Take what listens to one event."""
    return listener


told_before(Structural())
told_before(SkipOdd())


def tell(transition: Transition) -> None:
    """Tell."""
    assert_type(transition.state, TrainState)
    assert_type(transition.verdict, Cancel | None)


def from_pairs(pairs: list[Batch]) -> Learner[Batch]:
    """The batch type is inferred from the data."""
    dls = DataLoaders(pairs, pairs)
    assert_type(dls, DataLoaders[tuple[Tensor, Tensor]])
    learner = Learner(
        nn.Linear(2, 2),
        dls,
        cross_entropy,
        accuracy,
        torch.optim.SGD,
        0.1,
        [SkipOdd(), enough, look, EarlyStopping()],
        sinks=[PrintStats(), tell],
    )
    assert_type(learner, Learner[tuple[Tensor, Tensor]])
    assert_type(learner.replace(lr=0.2), Learner[tuple[Tensor, Tensor]])
    return learner


def every_step(learner: Learner[Batch], batch: Batch) -> TrainState:
    """Steps take a state and give an outcome."""
    state = learner.init(0, epochs=1)
    assert_type(state, TrainState)
    assert_type(state.get(SEEN), Seen)
    assert_type(state.params["weight"], Tensor)
    assert_type(state.history[-1].metrics["metric"], float)
    assert_type(advance(learner, state), Outcome)
    assert_type(batch_step(learner, state, batch), Outcome)
    assert_type(epoch_step(learner, state), Outcome)
    return fit_step(learner, state).state


def told(outcome: Outcome) -> str:
    """A match over an outcome is exhaustive."""
    match outcome:
        case Completed(state=state):
            return f"done: {state}"
        case Cancelled(by=by, verdict=verdict):
            return f"{by}: {verdict.reason}"
        case _:
            assert_never(outcome)


def images_of(pair: Batch) -> Tensor:
    """Give one part of a batch."""
    return pair[0]


def sets_by_name(pairs: list[Batch], model: nn.Module) -> None:
    """Several sets, none, and segments are of the batches that they have; what comes of them is typed."""
    named = DataLoaders(pairs, {"near": pairs, "far": pairs})
    assert_type(named, DataLoaders[Batch])
    assert_type(DataLoaders(segments(pairs, batches=3), None), DataLoaders[Batch])
    changed = transformed(pairs, RandomCrop(padding=2), RandomHorizontalFlip())
    assert_type(DataLoaders(changed, pairs), DataLoaders[Batch])
    assert_type(list(transformed(pairs, images_of)), list[Tensor])
    assert_type(DataLoaders(pairs), DataLoaders[Batch])
    learner = Learner(model, named, cross_entropy, {"accuracy": accuracy}, torch.optim.SGD, 0.1)
    state = learner.fit(steps=3).state
    assert_type(evaluate(learner, state, "far").data, str)
    assert_type(evaluate(learner, state, pairs).loss, float)
    for preds in predict(learner, state, [torch.zeros(1)], unpack=lambda batch: ((batch,), {}, None)):
        preds.argmax(1)
    assert_type(next(tta(learner, state, pairs, RandomCrop(padding=2))), Any)
    assert_type(fit_step(learner, state, steps=2), Completed | Cancelled)


class Follows(nn.Module):
    """A model of one's own, with a hidden state."""

    def forward(self, x: Tensor, hidden: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return x, hidden or (x, x)


def goes_on(
    model: Follows, batch: Batch, hidden: tuple[Tensor, Tensor] | None
) -> tuple[StepOutput[Tensor], tuple[Tensor, Tensor]]:
    """A task that carries has the model's type, and that of what it hands on."""
    preds, hidden = model.forward(batch[0], hidden)
    return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1]), hidden


def carried(pairs: list[Batch]) -> None:
    """A learner of a task that carries knows its batches and its predictions; rules are of one type."""
    update = chain(sam(0.05), schedule_free(optimizer(torch.optim.SGD, lr=0.1)))
    learner = Learner.of(Follows(), DataLoaders(pairs), carry(goes_on), update)
    assert_type(learner, Learner[Batch, Tensor])
    assert_type(Objective("one", carry(goes_on), update), Objective)
    assert_type(next(predict(learner, learner.init(), pairs)), Tensor)
