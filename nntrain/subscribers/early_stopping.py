"""Stop a fit when its monitored value stops improving."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

from nntrain.errors import ConfigError
from nntrain.subscribers.protocol import AnswerEpoch, Subscriber
from nntrain.values.history import EpochStats
from nntrain.values.progress import Phase
from nntrain.values.record import Record
from nntrain.values.slots import Slot
from nntrain.values.state import TrainState
from nntrain.values.verdicts import CancelFit


class Patience(Record, frozen=True):
    """What `EarlyStopping` remembers: the best value so far, and how many phases since had no better one."""

    best: float | None = None
    waited: int = 0


class EarlyStopping(Subscriber[object]):
    """Cancel the fit when `monitor` has not improved for `patience` epochs.

    `monitor` is "loss" or a metric's name, read from the statistics of `phase`. Better is lower for `mode` "min", and
    higher for "max", by more than `min_delta`; NaN is never better. Its memory is a slot in the state: a resumed run
    stops where an uninterrupted one does. Early stopping as in Prechelt, "Early Stopping - But When?", 1998.
    """

    def __init__(
        self,
        monitor: str = "loss",
        mode: Literal["min", "max"] = "min",
        patience: int = 3,
        min_delta: float = 0.0,
        *,
        phase: Phase = "eval",
        order: int = 0,
    ) -> None:
        if mode not in {"min", "max"}:
            raise ConfigError(f"mode is {mode!r}; expected 'min' (a loss) or 'max' (an accuracy).")
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ConfigError(f"patience is {patience!r}; expected a whole number of epochs, 1 or more.")
        if not (isinstance(min_delta, (int, float)) and math.isfinite(min_delta) and min_delta >= 0):
            raise ConfigError(f"min_delta is {min_delta!r}; expected a finite number, 0 or more.")
        if phase not in {"train", "eval"}:
            raise ConfigError(f"phase is {phase!r}; expected 'train' or 'eval'.")
        if not (isinstance(monitor, str) and monitor):
            raise ConfigError(f"monitor is {monitor!r}; expected 'loss' or a metric's name.")
        self.monitor = monitor
        self.monitors: Collection[str] = (monitor,)
        self.mode = mode
        self.patience = patience
        self.min_delta = min_delta
        self.phase = phase
        self.order = order
        # Two with different settings have different slots.
        said = f"{phase}_{mode}_{patience}_{float(min_delta)}_{monitor}"
        name = "".join(letter if letter.isalnum() or letter == "_" else f"x{ord(letter):x}" for letter in said)
        self.slot: Slot[Patience] = Slot(f"nntrain.early_stopping.{name}", Patience, default=Patience())

    def before_fit(self, state: TrainState) -> TrainState:
        """Begin each fit with full patience."""
        return state.put(self.slot, Patience()) if state.get(self.slot) != Patience() else state

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """Look at the phase's statistics; cancel the fit when patience has run out."""
        progress = state.progress
        if progress.phase != self.phase or not state.history:
            return state
        stats = state.history[-1]
        if (stats.epoch, stats.phase) != (progress.epoch, progress.phase):
            return state
        value = self._value(stats)
        memory = state.get(self.slot)
        if self._better(value, memory.best):
            return state.put(self.slot, Patience(best=value))
        waited = memory.waited + 1
        kept = state.put(self.slot, Patience(best=memory.best, waited=waited))
        if waited < self.patience:
            return kept
        return CancelFit(
            reason=f"{self.phase} {self.monitor} has not got better than {memory.best} for {waited} epochs",
            state=kept,
        )

    def _value(self, stats: EpochStats) -> float:
        if self.monitor == "loss":
            return stats.loss
        if self.monitor not in stats.metrics:
            raise ConfigError(
                f"EarlyStopping monitors {self.monitor!r}; there are loss, {', '.join(stats.metrics) or 'no metrics'}."
            )
        return stats.metrics[self.monitor]

    def _better(self, value: float, best: float | None) -> bool:
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value < best - self.min_delta if self.mode == "min" else value > best + self.min_delta
