"""How much of a fit is done, how fast it runs, and how long it will take: computed from the times in its lines."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Final

from nntrain.log.events import BatchFinished, EpochFinished, EpochStarted, FitStarted, RunStarted
from nntrain.log.line import Line
from nntrain.log.replay import phases_of
from nntrain.log.text import as_float
from nntrain.values.record import FrozenMapping

_REMEMBERED: Final = 5
"""How many finished phases of a kind predict how long the next one takes."""


class Gauge:
    """The progress of one run.

    The time of a phase is its number of batches times the seconds that a batch took in the phases before. If the
    number of batches is not known before a phase has ended, the phase counts as done only then. An epoch has the phases
    that the run's config has data for: train and eval, or one for each set by name.
    """

    def __init__(self) -> None:
        self.epochs: int = 0
        self.epoch: int = 0
        self.phase: str = "train"
        """The phase, or the set's name."""
        self.until: int | None = None
        self._step = 0
        self.batch: int = 0
        self.loss: float | None = None
        self.metrics: Mapping[str, float] = FrozenMapping()
        self.samples_per_s: float | None = None
        self._phases: list[str] = ["train", "eval"]
        self._batches: dict[str, int] = {}
        self._past_paces: dict[str, deque[float]] = {}
        self._pace: float | None = None
        self._measured_from: Line | None = None

    def add(self, line: Line) -> None:
        """Update from the next line of the run."""
        self.epoch, self.batch, self._step = line.epoch, line.batch, line.step
        if line.data or line.phase == "train" or self.phase == "train":  # else a line that does not say which set it is
            self.phase = line.label
        match line.event:
            case RunStarted(config=config):
                self._phases, self._batches = phases_of(config)
            case FitStarted(epochs=epochs, until=until):
                self.epochs, self.until = epochs, until
                self._measured_from, self._pace = line, None
            case EpochStarted():
                self._measured_from, self._pace = line, None
            case BatchFinished() as event:
                self.loss, self.metrics = event.loss, event.metrics
                self._measure(line, event)
            case EpochFinished() as event:
                self.loss, self.metrics = event.loss, event.metrics
                self._finish_phase(line, event)
            case _:
                pass

    def _measure(self, line: Line, event: BatchFinished) -> None:
        """Measure the pace and the rate since the phase began or was resumed, as the row of the phase will have it."""
        start = self._measured_from
        if start is None or (start.epoch, start.label) != (line.epoch, line.label) or line.batch <= start.batch:
            self._measured_from, self.samples_per_s = line, event.samples_per_s
            return
        seconds = line.elapsed_s - start.elapsed_s
        self._pace = seconds / as_float(line.batch - start.batch)
        if seconds > 0 and line.samples > start.samples:
            self.samples_per_s = as_float(line.samples - start.samples) / seconds

    def _finish_phase(self, line: Line, event: EpochFinished) -> None:
        """Remember how many batches a phase had, and its pace."""
        self._pace = None
        timed = math.isfinite(event.seconds)
        if event.batches:
            self._batches[line.label] = event.batches
            if timed and event.seconds >= 0:
                paces = self._past_paces.setdefault(line.label, deque(maxlen=_REMEMBERED))
                paces.append(event.seconds / as_float(event.batches))
        self.batch = self._batches.get(line.label, 1)
        if timed and event.seconds > 0:
            self.samples_per_s = as_float(line.samples) / event.seconds

    def _pace_of(self, phase: str) -> float | None:
        """Return the seconds for a batch of a phase: the mean of past phases, or the pace of the one that runs."""
        paces = self._past_paces.get(phase)
        if paces:
            return sum(paces) / len(paces)
        return self._pace if phase == self.phase else None

    def _work(self) -> tuple[float, float, bool]:
        """Return the work that is done, all work of the fit, and whether they are in seconds (else in batches)."""
        phases = self._phases if self.phase in self._phases else [*self._phases, self.phase]
        paces = {phase: self._pace_of(phase) for phase in phases}
        known = [pace for pace in paces.values() if pace is not None]
        timed = sum(known) > 0
        work: dict[str, float] = {}
        for phase, pace in paces.items():
            of_batch = (known[0] if pace is None else pace) if timed else 1.0
            work[phase] = as_float(self._batches.get(phase, 1)) * of_batch
        part = min(1.0, as_float(self.batch) / as_float(self._batches.get(self.phase, 1)))
        in_phase = part * work[self.phase] if self.phase in self._batches else 0.0
        epoch = sum(work.values())
        before = sum(work[phase] for phase in phases[: phases.index(self.phase)])
        done = as_float(self.epoch) * epoch + before + in_phase
        if self.until is None:
            return done, as_float(self.epochs) * epoch, timed
        left = as_float(max(0, self.until - self._step)) / as_float(self._batches.get("train", 1)) * epoch
        return done, done + left, timed

    @property
    def done(self) -> float:
        """The part of the fit that is done, from 0 to 1."""
        if self.until is not None:
            return min(1.0, as_float(self._step) / as_float(self.until))
        done, work, _ = self._work()
        return min(1.0, done / work) if work > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """The seconds that are left, or None if no line has shown how long anything takes."""
        done, work, timed = self._work()
        return max(0.0, work - done) if timed and self.has_goal else None

    @property
    def has_goal(self) -> bool:
        """Whether a fit is known to run towards something."""
        return self.epochs > 0 or self.until is not None
