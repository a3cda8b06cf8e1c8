"""Lower the learning rate where the loss stands still."""

from __future__ import annotations

import math
from typing import Final, Literal

from nntrain import LogEvent, Phase, Record, Slot, Subscriber, TrainState
from nntrain.errors import ConfigError


class Waited(Record, frozen=True):
    """What is remembered: the best loss so far, and the epochs since without a better one."""

    best: float = math.inf
    epochs: int = 0


class Reduced(LogEvent, frozen=True):
    """The learning rate was lowered: what it is multiplied with from here on."""

    event: Literal["plateau.reduced"] = "plateau.reduced"
    lr_scale: float


WAITED: Final = Slot("plateau.waited", Waited, default=Waited())


class ReduceOnPlateau(Subscriber[object]):
    """Multiply the learning rate with `factor` when the loss of `phase` has not got better for `patience` epochs.

    Better means by more than `min_delta`. It never goes below `least` of the learner's rate. As torch's
    `ReduceLROnPlateau`, but a pure function of the state: resumed or rolled back, it goes on where it stood.
    """

    def __init__(
        self,
        patience: int = 3,
        factor: float = 0.1,
        min_delta: float = 0.0,
        least: float = 1e-4,
        *,
        phase: Phase = "eval",
        order: int = 0,
    ) -> None:
        if patience < 1:
            raise ConfigError(f"patience is {patience!r}; expected a number of epochs, 1 or more.")
        if not 0 < factor < 1:
            raise ConfigError(f"factor is {factor!r}; expected a number between 0 and 1.")
        self.patience = patience
        self.factor = factor
        self.min_delta = min_delta
        self.least = least
        self.phase = phase
        self.order = order

    def after_epoch(self, state: TrainState) -> TrainState:
        """Look at the phase that has ended."""
        if state.progress.phase != self.phase:
            return state
        loss, waited = state.history[-1].loss, state.get(WAITED)
        if loss < waited.best - self.min_delta:
            return state.put(WAITED, Waited(best=loss))
        epochs = waited.epochs + 1
        if epochs < self.patience or state.lr_scale * self.factor < self.least:
            return state.put(WAITED, Waited(best=waited.best, epochs=epochs))
        reduced = state.scale_lr(self.factor)
        return reduced.put(WAITED, Waited(best=waited.best)).log(Reduced(lr_scale=reduced.lr_scale))
