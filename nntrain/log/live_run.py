"""A run while it is logged: its id, its clock, its line number, and what was logged of it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nntrain.log.events import BatchFinished, HistoryReplaced, PastPhase
from nntrain.log.line import Line
from nntrain.log.readout import read_out
from nntrain.log.transition_events import LogState, PlacedEvent
from nntrain.sinks.transition import BatchRan, RunInfo
from nntrain.values.log_event import LogEvent
from nntrain.values.progress import Progress
from nntrain.values.record import FrozenMapping, evolved


@dataclass
class LiveRun:
    """Makes the lines of a run. Only the log that owns it changes it.

    `began` is the `time.monotonic()` at which `elapsed_s` was 0; `seq` is that of the next line.
    """

    run_id: str
    began: float
    rank: int
    seq: int = 0
    logged: LogState = field(default_factory=LogState)
    info: RunInfo | None = None
    """The machine's facts about the run. Kept alive, because the log finds a run by the `id` of this object."""
    rate_from: tuple[int, str, int, float] | None = None
    """Epoch, phase (a set's name, where it has one) and samples of the last logged batch, and when it ran: the next
    rate is measured from there."""

    lines_lost: bool = False
    """Whether lines were lost, so that a reader may not know the history."""
    _first: Line | None = None

    def line(self, placed: PlacedEvent) -> Line:
        """Return the line of an event that happens now."""
        progress, event = placed
        now = time.monotonic()
        if event.event == "epoch_started":
            self.rate_from = (progress.epoch, progress.data or progress.phase, 0, now)
        return self._line(event, progress, now, datetime.now(UTC))

    def history_lines(self) -> list[Line]:
        """Return a line with the whole history if lines were lost, else none."""
        progress, history = self.logged.progress, self.logged.history
        if not self.lines_lost or progress is None or history is None:
            return []
        self.lines_lost = False
        past = tuple(map(PastPhase.of, history))
        return [self.line(PlacedEvent(progress, HistoryReplaced(kept=0, history=past, data=progress.data or None)))]

    def batch_lines(self, ran: Sequence[BatchRan]) -> Iterator[Line]:
        """Yield the lines of batches of one phase, each with the time at which the batch ran."""
        ran, waited = read_out(ran)
        now, offset = time.monotonic(), time.time() - time.monotonic()
        rates = self._rates(ran, now if waited else None)
        info = self.info if ran[0].phase == "train" else None
        first: BatchFinished | None = None
        for one, rate in zip(ran, rates, strict=True):
            fields: dict[str, Any] = {
                "loss": one.loss,
                "metrics": FrozenMapping(one.metrics),
                "lr": None if info is None else float(info.lr_at(max(one.step - 1, 0))) * one.lr_scale,
                "group_lrs": None if info is None else _group_lrs(info, one),
                "samples_per_s": rate,
                "data": one.data or None,
                "has_loss": None if one.has_loss else False,
            }
            # Only the first event of a group is validated: the others have the same fields, of the same types.
            event = BatchFinished(**fields) if first is None else evolved(first, **fields)
            first = first or event
            yield self._line(event, one, one.when, datetime.fromtimestamp(one.when + offset, UTC))

    def _rates(self, ran: Sequence[BatchRan], read_at: float | None) -> list[float | None]:
        """Return each batch's samples per second, measured from the batch logged before it.

        On a device a batch is launched long before it runs. So if reading the group waited for the device, until
        `read_at`, all its batches get one rate: that from the group read before until `read_at`.
        """
        rates: list[float | None] = []
        for one in ran if read_at is None else ran[-1:]:
            when = one.when if read_at is None else read_at
            rate = None
            label = one.data or one.phase
            if self.rate_from is not None and self.rate_from[:2] == (one.epoch, label) and when > self.rate_from[3]:
                rate = round((one.samples - self.rate_from[2]) / (when - self.rate_from[3]), 3)
            rates.append(rate if rate is None or rate > 0 else None)
            self.rate_from = (one.epoch, label, one.samples, when)
        return rates if read_at is None else rates * len(ran)

    def _line(self, event: LogEvent, progress: Progress | BatchRan, when: float, moment: datetime) -> Line:
        changes: dict[str, Any] = {
            "event": event,
            "timestamp": moment,
            "level": event.level,
            "seq": self.seq,
            "elapsed_s": round(max(0.0, when - self.began), 6),
            "epoch": progress.epoch,
            "phase": progress.phase,
            "batch": progress.batch,
            "step": progress.step,
            "samples": progress.samples,
        }
        self.seq += 1
        if self._first is None:
            self._first = Line(run_id=self.run_id, rank=self.rank, **changes)
            return self._first
        return evolved(self._first, **changes)


def _group_lrs(info: RunInfo, ran: BatchRan) -> FrozenMapping[float] | None:
    """Return the rates of parameter groups with their own, that a batch was trained with; None where none has."""
    rates = info.group_lrs_at(max(ran.step - 1, 0))
    return FrozenMapping({name: float(rate) * ran.lr_scale for name, rate in rates.items()}) if rates else None


def new_run_id() -> str:
    """Return a new UUID of version 7 (RFC 9562): later ones sort after earlier ones."""
    make: Callable[[], uuid.UUID] | None = getattr(uuid, "uuid7", None)
    if make is not None:
        return str(make())
    random = int.from_bytes(os.urandom(10), "big")
    bits = (time.time_ns() // 1_000_000) << 80 | random
    return str(uuid.UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))
