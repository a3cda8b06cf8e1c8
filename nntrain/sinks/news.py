"""What came up beside a learner's transitions, and is told with one of them."""

from __future__ import annotations

import math
from itertools import takewhile

from nntrain.errors import DataWarning
from nntrain.ranks.console import warn_once
from nntrain.values.history import EpochStats
from nntrain.values.log_event import NOT_FINITE, LogEvent, Note, WarningEvent
from nntrain.values.progress import Phase, Place


class News:
    """What came up beside a learner's transitions, until it is told with one of them."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.queued_events: list[LogEvent] = []
        """The events of sinks, which any thread may add to."""
        self._noted: tuple[Note, ...] = ()

    def warn(self, note: Note, kind: type[Warning] = DataWarning) -> None:
        """Warn whoever runs the training, and tell the log. Of several ranks rank 0 warns, and each tells its log."""
        self.notes.append(note)
        warn_once(note.text, kind, stacklevel=2)

    def take_notes(self, at: Place) -> tuple[Note, ...]:
        """Return the notes that came up; where a fit begins, those of the fits before it too, which hold of it."""
        new = tuple(self.notes)
        self.notes.clear()
        self._noted += new
        return self._noted if at == "before_fit" else new

    def take_events(self) -> tuple[LogEvent, ...]:
        """Return the queued events."""
        if not self.queued_events:
            return ()
        taken = tuple(self.queued_events)
        del self.queued_events[: len(taken)]  # another thread may have added to it
        return taken


def loss_warning(history: tuple[EpochStats, ...]) -> tuple[LogEvent, ...]:
    """Return what is to be told of a training that ends without a finite loss; nothing of any other."""
    since = _not_finite_since(history)
    if since is None:
        return ()
    text = (
        f"the {since.phase} loss has not been finite since epoch {since.epoch}. With NanGuard() in subs=[...] the fit "
        f"stops at the first such batch and names the tensor; with Rollback() it goes back, and on with a lower lr."
    )
    return (WarningEvent(code=NOT_FINITE, text=text),)


def _not_finite_since(history: tuple[EpochStats, ...]) -> EpochStats | None:
    """Return the first of the last phases of one kind, train or else eval, whose losses are all NaN or infinite."""
    kinds: tuple[Phase, ...] = ("train", "eval")
    for kind in kinds:
        newest_first = (stats for stats in reversed(history) if stats.phase == kind)
        lost = list(takewhile(lambda stats: stats.has_loss and not math.isfinite(stats.loss), newest_first))
        if lost:
            return lost[-1]
    return None
