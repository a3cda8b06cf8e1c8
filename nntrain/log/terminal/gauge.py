"""How far a fit is, how fast it goes, and how long it will take: from its lines, and no clock but theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from nntrain.log.events import BatchFinished, EpochFinished, EpochStarted, FitStarted, RunStarted
from nntrain.log.line import Line
from nntrain.log.text import as_float
from nntrain.values.progress import Phase
from nntrain.values.record import FrozenMapping

_REMEMBERED: Final = 5
"""How many finished phases of a kind say how long the next takes."""
_PHASES: Final[tuple[Phase, Phase]] = ("train", "eval")
_CONFIGURED: Final[dict[Phase, str]] = {"train": "train_batches", "eval": "valid_batches"}


class Gauge:
    """What the lines of one run say of its pace.

    An epoch is so many batches of train and eval, each as long as those before it were; where their number is not
    known before a phase has ended, the phase counts when it is finished.
    """

    def __init__(self) -> None:
        self.epochs: int = 0
        self.epoch: int = 0
        self.phase: Phase = "train"
        self.batch: int = 0
        self.loss: float | None = None
        self.metrics: Mapping[str, float] = FrozenMapping()
        self.samples_per_s: float | None = None
        self._batches: dict[Phase, int] = {}
        self._pace: dict[Phase, tuple[float, ...]] = dict.fromkeys(_PHASES, ())
        self._now: float | None = None
        self._began: Line | None = None

    def hear(self, line: Line) -> None:
        """Take one more line."""
        self.epoch, self.phase, self.batch = line.epoch, line.phase, line.batch
        match line.event:
            case RunStarted(config=config):
                for phase, key in _CONFIGURED.items():
                    given = config.get(key)
                    if isinstance(given, int) and given > 0:
                        self._batches[phase] = given
            case FitStarted(epochs=epochs):
                self.epochs = epochs
                self._begin(line)
            case EpochStarted():
                self._begin(line)
            case BatchFinished() as event:
                self.loss, self.metrics = event.loss, event.metrics
                self._time(line, event)
            case EpochFinished() as event:
                self.loss, self.metrics = event.loss, event.metrics
                self._finish(line, event)
            case _:
                pass

    def _begin(self, line: Line) -> None:
        self._began, self._now = line, None

    def _time(self, line: Line, event: BatchFinished) -> None:
        """Take the pace of the batches since the phase began, or was gone on with."""
        self.samples_per_s = event.samples_per_s if event.samples_per_s is not None else self.samples_per_s
        began = self._began
        if began is None or (began.epoch, began.phase) != (line.epoch, line.phase) or line.batch <= began.batch:
            self._began = line
            return
        took = line.elapsed_s - began.elapsed_s
        self._now = took / as_float(line.batch - began.batch)
        if event.samples_per_s is None and took > 0 and line.samples > began.samples:
            self.samples_per_s = as_float(line.samples - began.samples) / took

    def _finish(self, line: Line, event: EpochFinished) -> None:
        """Take the count and the pace of a finished phase."""
        self._now = None
        if event.batches:
            self._batches[line.phase] = event.batches
            if math.isfinite(event.seconds) and event.seconds >= 0:
                paces = (*self._pace[line.phase], event.seconds / as_float(event.batches))
                self._pace[line.phase] = paces[-_REMEMBERED:]
        self.batch = self._batches.get(line.phase, 1)
        if math.isfinite(event.seconds) and event.seconds > 0:
            self.samples_per_s = as_float(line.samples) / event.seconds

    def _seconds(self, phase: Phase) -> float | None:
        """Give the seconds that a batch of a phase takes: as those before took, or those of now, or of the other."""
        paces = self._pace[phase]
        if paces:
            return sum(paces) / len(paces)
        return self._now if phase == self.phase else None

    def _work(self) -> tuple[float, float, bool]:
        """Give the work done and all of it, and whether it is in seconds."""
        pace = {phase: self._seconds(phase) for phase in _PHASES}
        known = [one for one in pace.values() if one is not None]
        timed = sum(known) > 0
        whole: dict[Phase, float] = {}
        for phase in _PHASES:
            of_phase = pace[phase]
            each = (of_phase if of_phase is not None else known[0]) if timed else 1.0
            whole[phase] = as_float(self._batches.get(phase, 1)) * each
        count = as_float(self._batches.get(self.phase, 1))
        part = min(1.0, as_float(self.batch) / count) if self.phase in self._batches else 0.0
        epoch = whole["train"] + whole["eval"]
        before = whole["train"] if self.phase == "eval" else 0.0
        done = as_float(self.epoch) * epoch + before + part * whole[self.phase]
        return done, as_float(self.epochs) * epoch, timed

    @property
    def done(self) -> float:
        """The part of the fit that is done, from 0 to 1."""
        done, whole, _ = self._work()
        return min(1.0, done / whole) if whole > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """The seconds that are left, None where nothing tells."""
        done, whole, timed = self._work()
        return max(0.0, whole - done) if timed and self.epochs else None
