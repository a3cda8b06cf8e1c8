"""The notable events of a run: verdicts, checkpoints, failures, resumptions, warnings, custom events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, Literal

from nntrain.log.events import OWN, CancelledEvent, FitStarted, HistoryReplaced, RunFailed
from nntrain.log.line import Line
from nntrain.log.replay import Run
from nntrain.log.report.series import Scale
from nntrain.log.sentences import sentence
from nntrain.log.text import as_float, one_line
from nntrain.values.log_event import CheckpointLoaded, CheckpointSaved, RolledBack, WarningEvent

Kind = Literal["verdict", "checkpoint", "failure", "resumption", "warning", "other", "nonfinite"]

MARKED: Final[Sequence[Kind]] = ("verdict", "checkpoint", "resumption", "warning", "failure", "nonfinite")
"""The kinds that are marked on the curves, in the order of the legend."""


@dataclass(frozen=True)
class NotableEvent:
    """A notable event: its kind, its line, a sentence about it, and details such as a traceback."""

    kind: Kind
    line: Line
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Mark:
    """A mark at `x` epochs: of one event, or of several of one kind that are too close to be drawn apart."""

    kind: Kind
    x: float
    texts: tuple[str, ...]
    count: int = 1


def label(kind: Kind) -> str:
    """Return the name of a kind that is marked on the curves."""
    return "no finite number" if kind == "nonfinite" else kind


def notable_events(run: Run, others: Sequence[Line] = ()) -> tuple[NotableEvent, ...]:
    """Return the notable events of a run in order, and those `others` of ranks that its log is not of."""
    told = [found for line in (*run.events, *others) if (found := _notable_event(line)) is not None]
    return tuple(replace(one, text=f"rank {one.line.rank}: {one.text}") if one.line in others else one for one in told)


def _notable_event(line: Line) -> NotableEvent | None:
    match line.event:
        case CancelledEvent():
            return NotableEvent("verdict", line, sentence(line))
        case CheckpointSaved(digest=digest):
            return NotableEvent("checkpoint", line, sentence(line), digest)
        case CheckpointLoaded(digest=digest):
            return NotableEvent("resumption", line, sentence(line), digest)
        case FitStarted(resumed=True) | HistoryReplaced() | RolledBack():
            return NotableEvent("resumption", line, sentence(line))
        case WarningEvent():
            return NotableEvent("warning", line, sentence(line))
        case RunFailed(traceback=traceback):
            return NotableEvent("failure", line, sentence(line), traceback)
        case event if not isinstance(event, OWN):
            return NotableEvent("other", line, sentence(line))
        case _:
            return None


def marks(run: Run, found: Iterable[NotableEvent], *, by_epoch: bool = False) -> tuple[Mark, ...]:
    """Return the marks of notable events: at their places, or `by_epoch` at the numbers of their epochs."""
    scale = Scale(run)
    kinds: dict[Kind, list[Mark]] = {}
    for one in found:
        if one.kind in MARKED:
            place = as_float(one.line.epoch) if by_epoch else scale.mark(one.line)
            mark = Mark(one.kind, place, (one_line(one.text, 180),))
            kinds.setdefault(one.kind, []).append(mark)
    return tuple(mark for same in kinds.values() for mark in merge(same))


def merge(same: Sequence[Mark], most: int = 200) -> tuple[Mark, ...]:
    """Return one mark for all marks of a kind in one place; with over `most` places, one for each part of the axis."""
    places = {mark.x for mark in same}
    step = (max(places) - min(places)) / most if len(places) > most else 0.0
    ordered = sorted(same, key=lambda mark: mark.x)
    groups = [[*group] for _, group in groupby(ordered, key=lambda mark: mark.x // step if step else mark.x)]
    return tuple(Mark(near[0].kind, near[0].x, tuple(mark.texts[0] for mark in near[:5]), len(near)) for near in groups)
