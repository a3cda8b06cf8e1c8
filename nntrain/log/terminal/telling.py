"""What happened in a run beside its phases, in words: one entry a line of the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from rich.text import Text

from nntrain.log.events import (
    OWN,
    CancelledEvent,
    CheckpointLoaded,
    CheckpointSaved,
    FitStarted,
    HistoryReplaced,
    RunFailed,
    WarningEvent,
)
from nntrain.log.line import Line
from nntrain.log.report.text import size
from nntrain.log.terminal import words
from nntrain.log.terminal.screen import Screen
from nntrain.logged import LogEvent

Kind = Literal["verdict", "warning", "checkpoint", "resumed", "failure", "lost"]

STYLES: Final[dict[Kind, str]] = {
    "verdict": "bold yellow",
    "warning": "yellow",
    "checkpoint": "blue",
    "resumed": "magenta",
    "failure": "bold red",
    "lost": "red",
}


@dataclass(frozen=True)
class Told:
    """What a line tells: its kind, where in the training, it in words, and a traceback. All of it is safe to show."""

    kind: Kind
    where: str
    text: str
    traceback: str = ""


def told(line: Line) -> Told | None:
    """Give what a line tells of, None for one that only says how far the training is, or that is somebody else's."""
    where = f"epoch {words.whole(line.epoch)} {line.phase}"
    match line.event:
        case CancelledEvent(scope=scope, reason=reason, subscriber=subscriber, at=at):
            why = f": {words.line(reason)}" if reason else ""
            return Told("verdict", where, f"{words.line(subscriber)} cancelled the {scope} at {at}{why}")
        case CheckpointSaved(path=path, bytes=count, seconds=took):
            return Told("checkpoint", where, f"saved {words.line(path)} ({size(count)}, {words.duration(took)})")
        case CheckpointLoaded(path=path, bytes=count, seconds=took):
            return Told("checkpoint", where, f"loaded {words.line(path)} ({size(count)}, {words.duration(took)})")
        case FitStarted(epochs=epochs, resumed=True):
            return Told("resumed", where, f"went on, towards {words.counted(epochs, 'epoch')}")
        case HistoryReplaced(kept=kept, history=history):
            what = f"of the phases told before, {words.whole(kept)} still hold; {words.whole(len(history))} are others"
            return Told("resumed", where, f"from another state: {what}")
        case WarningEvent(code=code, text=text):
            return Told("warning", where, f"{words.line(code)}: {words.line(text)}")
        case RunFailed(error_type=error, error_message=message, where=place, traceback=traceback):
            text = f"{words.line(error)} in {words.line(place)}: {words.line(message)}"
            return Told("failure", where, text, words.block(traceback))
        case _:
            return None


def lost(count: int) -> Told:
    """Say that lines of the log are missing."""
    return Told("lost", "", f"{words.counted(count, 'line')} of the log {'is' if count == 1 else 'are'} missing")


def say(screen: Screen, one: Told, mark: str = "") -> None:
    """Write what was told, with the mark of its run before it where there are several."""
    label = Text.assemble((f"{mark}  " if mark else "", "cyan"), (f"{one.kind:<10}", STYLES[one.kind]))
    place = Text(f"{one.where}: " if one.where and one.kind != "failure" else "", style="dim")
    screen.entry(label, place + Text(one.text, style="red not dim" if one.kind == "failure" else "not dim"))
    if one.traceback:
        screen.block(Text(one.traceback, style="dim"))


def others(events: Iterable[LogEvent]) -> Counter[str]:
    """Count the events that are somebody else's, by name."""
    return Counter(event.event for event in events if not isinstance(event, OWN))


def say_others(screen: Screen, names: Counter[str], mark: str = "") -> None:
    """Write how many events there are of each name."""
    if not names:
        return
    shown = [f"{words.whole(count)} × {words.name(name, 60)}" for name, count in names.most_common(20)]
    more = [f"{words.whole(len(names) - 20)} more names"] if len(names) > 20 else []
    label = Text.assemble((f"{mark}  " if mark else "", "cyan"), (f"{'events':<10}", "dim"))
    screen.entry(label, Text(", ".join(shown + more)))
