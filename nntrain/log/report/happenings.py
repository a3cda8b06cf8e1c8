"""What happened in a run beside its phases and batches: verdicts, checkpoints, failures, resumptions, warnings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from nntrain.log.events import OWN, CancelledEvent, FitStarted, HistoryReplaced, RunFailed
from nntrain.log.line import Line
from nntrain.log.replay import Run
from nntrain.log.report.series import Scale
from nntrain.log.sentences import sentence
from nntrain.log.text import in_a_line
from nntrain.values.log_event import CheckpointLoaded, CheckpointSaved, RolledBack, WarningEvent

Kind = Literal["verdict", "checkpoint", "failure", "resumption", "warning", "other", "nonfinite"]

SYMBOLS: Final[dict[Kind, str]] = {
    "verdict": "diamond",
    "checkpoint": "square",
    "failure": "x",
    "resumption": "triangle-right",
    "warning": "triangle-up",
    "nonfinite": "circle-x-open",
}
"""plotly's symbols of what is marked on the curves."""


@dataclass(frozen=True)
class Happening:
    """Something that happened: a kind, the line that tells it, it in words, and what there is beside."""

    kind: Kind
    line: Line
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Mark:
    """A mark at `x` epochs: of one happening, or of many of a kind that lie too near each other to be told apart."""

    kind: Kind
    x: float
    texts: tuple[str, ...]
    count: int = 1


def happenings(run: Run) -> tuple[Happening, ...]:
    """Give what happened in a run, in order."""
    return tuple(found for line in run.events if (found := _happening(line)) is not None)


def _happening(line: Line) -> Happening | None:
    match line.event:
        case CancelledEvent():
            return Happening("verdict", line, sentence(line))
        case CheckpointSaved(digest=digest):
            return Happening("checkpoint", line, sentence(line), digest)
        case CheckpointLoaded(digest=digest):
            return Happening("resumption", line, sentence(line), digest)
        case FitStarted(resumed=True) | HistoryReplaced() | RolledBack():
            return Happening("resumption", line, sentence(line))
        case WarningEvent():
            return Happening("warning", line, sentence(line))
        case RunFailed(traceback=traceback):
            return Happening("failure", line, sentence(line), traceback)
        case event if not isinstance(event, OWN):
            return Happening("other", line, sentence(line))
        case _:
            return None


def marks(run: Run, found: Iterable[Happening]) -> tuple[Mark, ...]:
    """Give the marks of what happened."""
    scale = Scale(run)
    kinds: dict[Kind, list[Mark]] = {}
    for one in found:
        if one.kind in SYMBOLS:
            mark = Mark(one.kind, scale.mark(one.line), (in_a_line(one.text, 180),))
            kinds.setdefault(one.kind, []).append(mark)
    return tuple(mark for same in kinds.values() for mark in merged(same))


def merged(same: Sequence[Mark], most: int = 200) -> tuple[Mark, ...]:
    """Make one mark of those of a kind in one place; of more than `most` places, one of each stretch of the axis."""
    places = {mark.x for mark in same}
    step = (max(places) - min(places)) / most if len(places) > most else 0.0
    ordered = sorted(same, key=lambda mark: mark.x)
    groups = [[*group] for _, group in groupby(ordered, key=lambda mark: mark.x // step if step else mark.x)]
    return tuple(Mark(near[0].kind, near[0].x, tuple(mark.texts[0] for mark in near[:5]), len(near)) for near in groups)
