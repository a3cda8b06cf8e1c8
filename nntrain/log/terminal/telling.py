"""What happened in a run beside its phases, in words: one entry a line of the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from rich.text import Text

from nntrain.log.events import OWN, CancelledEvent, FitStarted, HistoryReplaced, RunFailed
from nntrain.log.line import Line
from nntrain.log.sentences import sentence
from nntrain.log.terminal import words
from nntrain.log.terminal.screen import Screen
from nntrain.values.log_event import CheckpointLoaded, CheckpointSaved, LogEvent, RolledBack, WarningEvent

Kind = Literal["verdict", "warning", "checkpoint", "resumed", "failure", "lost"]

STYLES: Final[dict[Kind, str]] = {
    "verdict": "bold yellow",
    "warning": "yellow",
    "checkpoint": "blue",
    "resumed": "magenta",
    "failure": "bold red",
    "lost": "red",
}


LONGEST: Final = 400
"""Characters of the longest sentence; the rest is counted."""


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
    text = words.line(sentence(line), LONGEST)
    match line.event:
        case CancelledEvent():
            return Told("verdict", where, text)
        case CheckpointSaved() | CheckpointLoaded():
            return Told("checkpoint", where, text)
        case FitStarted(resumed=True) | HistoryReplaced() | RolledBack():
            return Told("resumed", where, text)
        case WarningEvent():
            return Told("warning", where, text)
        case RunFailed(traceback=traceback):
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
