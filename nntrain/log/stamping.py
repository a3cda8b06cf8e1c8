"""A run while it is told: its id, its clock, its count of lines, and what was told of it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from nntrain.log.events import BatchFinished, HistoryReplaced, PastPhase
from nntrain.log.line import Line
from nntrain.log.readout import read_out
from nntrain.log.story import NOTHING, Saying, Told
from nntrain.sinks.transition import BatchRan, RunInfo
from nntrain.values.log_event import LogEvent
from nntrain.values.progress import Phase, Progress
from nntrain.values.record import FrozenMapping, evolved


@dataclass
class LiveRun:
    """What makes lines of what is told. Only the log that owns it changes it.

    `began` is what `time.monotonic()` was when `elapsed_s` was 0; `seq` is the next line's.
    """

    run_id: str
    began: float
    rank: int
    seq: int = 0
    told: Told = NOTHING
    info: RunInfo | None = None
    """What the machine told of the run. Held on to, so that no other run is taken for this one."""
    since: tuple[int, Phase, int, float] | None = None
    """Epoch, phase and samples of the batches told last, and when that was: what their rate is measured from."""

    doubtful: bool = False
    """Whether lines were lost, so that a reader may not know what lies behind."""
    _first: Line | None = None

    def line(self, saying: Saying) -> Line:
        """Give the line of what happens now."""
        place, event = saying
        now = time.monotonic()
        if event.event == "epoch_started":
            self.since = (place.epoch, place.phase, 0, now)
        return self._stamped(event, place, now, datetime.now(UTC))

    def assured(self) -> list[Line]:
        """Give a line that says what lies behind, if a reader may not know it."""
        place, history = self.told.place, self.told.history
        if not self.doubtful or place is None or history is None:
            return []
        self.doubtful = False
        return [self.line(Saying(place, HistoryReplaced(kept=0, history=tuple(map(PastPhase.of, history)))))]

    def batch_lines(self, ran: Sequence[BatchRan]) -> Iterator[Line]:
        """Give the lines of a phase's batches, each as of when it ran."""
        ran, waited = read_out(ran)
        now, offset = time.monotonic(), time.time() - time.monotonic()
        rates = self._rates(ran, now if waited else None)
        lr_at = self.info.lr_at if self.info is not None and ran[0].phase == "train" else None
        first: BatchFinished | None = None
        for one, rate in zip(ran, rates, strict=True):
            told: dict[str, Any] = {
                "loss": one.loss,
                "metrics": FrozenMapping(one.metrics),
                "lr": None if lr_at is None else float(lr_at(one.step - 1)) * one.lr_scale,
                "samples_per_s": rate,
            }
            # Of a group the first is validated. The others are of the same batches, metrics and rates.
            event = BatchFinished(**told) if first is None else evolved(first, **told)
            first = first or event
            yield self._stamped(event, one, one.when, datetime.fromtimestamp(one.when + offset, UTC))

    def _rates(self, ran: Sequence[BatchRan], read_at: float | None) -> list[float | None]:
        """Give the samples per second of each batch of a phase: since the one told before.

        When a batch was launched on a device says little of when it ran. When the numbers of a group could be read
        (`read_at`) says it of the group: then all have the rate since those that were read before.
        """
        rates: list[float | None] = []
        for one in ran if read_at is None else ran[-1:]:
            when = one.when if read_at is None else read_at
            rate = None
            if self.since is not None and self.since[:2] == (one.epoch, one.phase) and when > self.since[3]:
                rate = round((one.samples - self.since[2]) / (when - self.since[3]), 3)
            rates.append(rate if rate is None or rate > 0 else None)
            self.since = (one.epoch, one.phase, one.samples, when)
        return rates if read_at is None else rates * len(ran)

    def _stamped(self, event: LogEvent, place: Progress | BatchRan, when: float, moment: datetime) -> Line:
        changes: dict[str, Any] = {
            "event": event,
            "timestamp": moment,
            "level": event.level,
            "seq": self.seq,
            "elapsed_s": round(max(0.0, when - self.began), 6),
            "epoch": place.epoch,
            "phase": place.phase,
            "batch": place.batch,
            "step": place.step,
            "samples": place.samples,
        }
        self.seq += 1
        if self._first is None:
            self._first = Line(run_id=self.run_id, rank=self.rank, **changes)
            return self._first
        return evolved(self._first, **changes)


def process_rank() -> int:
    """Give this process's rank among those that train together; 0 where there are none."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def new_run_id() -> str:
    """Give a UUID of version 7 (RFC 9562), which is ordered by time."""
    make: Callable[[], uuid.UUID] | None = getattr(uuid, "uuid7", None)
    if make is not None:
        return str(make())
    random = int.from_bytes(os.urandom(10), "big")
    bits = (time.time_ns() // 1_000_000) << 80 | random
    return str(uuid.UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))
