"""A line in words. The result contains text from the log: escape it for the place where it is shown."""

from __future__ import annotations

from typing import Literal

from nntrain.log.events import (
    OWN,
    BatchFinished,
    CancelledEvent,
    EpochFinished,
    FitFinished,
    FitStarted,
    HistoryReplaced,
    RunFailed,
)
from nntrain.log.line import Line
from nntrain.log.text import number, seconds, size, whole, word
from nntrain.values.log_event import CheckpointLoaded, CheckpointSaved, LogEvent, RolledBack, WarningEvent
from nntrain.values.looks import Activations, ConfusionMatrix, Profiled


def sentence(line: Line) -> str:
    """Return a sentence that says what a line says."""
    label = word(line.label)
    match line.event:
        case FitStarted(epochs=epochs, resumed=resumed, until=until):
            count, what = (epochs, "epoch") if until is None else (until, "step")
            return f"{'went on' if resumed else 'began'}, towards {whole(count)} {what}{'' if count == 1 else 's'}"
        case BatchFinished(loss=loss, has_loss=has_loss):
            return f"epoch {line.epoch} {label}, batch {line.batch}: {_loss_said(loss, has_loss)}"
        case EpochFinished(loss=loss, has_loss=has_loss):
            return f"epoch {line.epoch} {label}: {_loss_said(loss, has_loss)}"
        case CancelledEvent(scope=scope, reason=reason, subscriber=subscriber, at=at, by_rank=by_rank):
            who = subscriber if by_rank is None else f"{subscriber} of rank {whole(by_rank)}"
            return f"{who} cancelled the {scope} at {at}" + (f": {reason}" if reason else "")
        case CheckpointSaved() | CheckpointLoaded():
            return _checkpoint(line.event)
        case HistoryReplaced(kept=kept, history=history):
            what = f"of the phases told before, {whole(kept)} still hold; {whole(len(history))} are others"
            return f"went on from another state: {what}"
        case RolledBack():
            return _rolled_back(line.event)
        case WarningEvent(code=code, text=text):
            return f"{code}: {text}"
        case FitFinished(outcome=outcome):
            return f"fit {outcome}"
        case RunFailed(error_type=error, error_message=message, where=where):
            return f"{error} in {where}: {message}"
        case event if not isinstance(event, OWN):
            return _custom_event(event)
        case event:
            return event.event.replace("_", " ")


def _loss_said(loss: float, has_loss: Literal[False] | None) -> str:
    return "no loss" if has_loss is False else f"loss {number(loss)}"


def _checkpoint(event: CheckpointSaved | CheckpointLoaded) -> str:
    about = [size(event.bytes), seconds(event.seconds)]
    if isinstance(event, CheckpointLoaded):
        return f"loaded {event.path} ({', '.join(about)})"
    if event.waited_seconds:
        about.append(f"waited for {seconds(event.waited_seconds)}")
    return f"saved {event.path} ({', '.join(about)})"


def _rolled_back(event: RolledBack) -> str:
    back = f"back to step {whole(event.to_step)}, for time {whole(event.times)} of at most {whole(event.at_most)}"
    otherwise = f"learning rate times {number(event.lr_scale)}" + (", other random numbers" if event.new_key else "")
    return f"{back}: {event.reason}; {otherwise}"


def _custom_event(event: LogEvent) -> str:
    match event:
        case Activations(layers=layers):
            return f"activations of {whole(len(layers))} layer{'' if len(layers) == 1 else 's'}"
        case ConfusionMatrix(labels=labels, accuracy=accuracy):
            return f"confusion matrix of {whole(len(labels))} classes: accuracy {number(accuracy)}"
        case Profiled(path=path, first=first, last=last):
            return f"profiled steps {whole(first)} to {whole(last)}: {path}"
        case _:
            return _fields(event)


def _fields(event: LogEvent) -> str:
    fields = {**event.__dict__, **(event.model_extra or {})}
    said = ", ".join(f"{name}={word(value)}" for name, value in fields.items() if name != "event")
    return f"{event.event}: {said}" if said else event.event
