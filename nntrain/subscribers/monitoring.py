"""What subscribers that watch one value of each phase share: which value it is, and reading it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from nntrain.errors import ConfigError
from nntrain.subscribers.protocol import Subscriber
from nntrain.values.history import EpochStats
from nntrain.values.numbers import is_count
from nntrain.values.progress import Phase
from nntrain.values.state import TrainState

Mode = Literal["min", "max"]


class Monitoring(Subscriber[object]):
    """A subscriber that watches a value: "loss" or a metric's name, of the phases of a kind; a set's is "far/loss"."""

    def __init__(self, monitor: str, mode: Mode, patience: int, phase: Phase, order: int) -> None:
        if mode not in {"min", "max"}:
            raise ConfigError(f"mode is {mode!r}; expected 'min' (a loss) or 'max' (an accuracy).")
        check_epochs("patience", patience, least=1)
        if phase not in {"train", "eval"}:
            raise ConfigError(f"phase is {phase!r}; expected 'train' or 'eval'.")
        if not (isinstance(monitor, str) and monitor):
            raise ConfigError(f"monitor is {monitor!r}; expected 'loss' or a metric's name.")
        self.monitor = monitor
        self._value_name = f"train/{monitor}" if phase == "train" else monitor
        self.monitors: Collection[str] = (self._value_name,)
        self.mode = mode
        self.patience = patience
        self.phase = phase
        self.order = order

    def _watched_in(self, stats: EpochStats) -> float | None:
        """Return the value of a finished phase, None where it is of another kind."""
        return stats.value(self._value_name)

    def _now(self, state: TrainState) -> float | None:
        """Return the value of the phase that has just finished, None where it is of another kind, or was cancelled.

        Raises `ConfigError` where a phase that should have the value has none.
        """
        progress = state.progress
        stats = state.history[-1] if state.history else None
        if stats is None or (stats.epoch, stats.phase, stats.data) != (progress.epoch, progress.phase, progress.data):
            return None
        value = self._watched_in(stats)
        label, _, _ = self._value_name.rpartition("/")
        if value is None and (label == stats.label or (not label and stats.phase == self.phase)):
            there = [*(["loss"] if stats.has_loss else []), *stats.metrics]
            raise ConfigError(
                f"{type(self).__name__} monitors {self.monitor!r}; the {stats.label} phase has "
                f"{', '.join(there) or 'nothing'}."
            )
        return value

    @property
    def _slot_name(self) -> str:
        """What is watched, as a part of a slot's name."""
        return f"{self.phase}_{self.mode}_{escaped(self.monitor)}"


def escaped(monitor: str) -> str:
    """Return a monitor's name as a part of a slot's name."""
    return "".join(letter if letter.isalnum() or letter == "_" else f"x{ord(letter):x}" for letter in monitor)


def check_epochs(name: str, given: object, *, least: int) -> None:
    """Raise `ConfigError` for what is no number of epochs, `least` or more."""
    if not is_count(given, least):
        raise ConfigError(f"{name} is {given!r}; expected a whole number of epochs, {least} or more.")
