"""Lower the learning rate when a monitored value stops improving."""

from __future__ import annotations

import math
from typing import Literal

from nntrain.errors import ConfigError
from nntrain.subscribers.monitoring import Monitoring, check_epochs
from nntrain.values.numbers import is_number
from nntrain.values.progress import Phase
from nntrain.values.record import Record, evolved
from nntrain.values.slots import Slot
from nntrain.values.state import TrainState


class Plateau(Record, frozen=True):
    """What `ReduceOnPlateau` remembers: the best value, the epochs without a better one, and the rest that is left."""

    best: float | None = None
    waited: int = 0
    resting: int = 0


class ReduceOnPlateau(Monitoring):
    """Multiply the learning rate with `factor` when `monitor` has not improved for more than `patience` epochs.

    It is torch's `ReduceLROnPlateau`, and acts through `state.lr_scale`: on constant rates and on schedules, of every
    parameter group. `monitor` is "loss" or a metric's name, read from the statistics of `phase`; of a set by name it is
    "far/loss". Better is lower for `mode` "min" by more than `threshold`, a share of the best value or, with
    `threshold_mode` "abs", a difference; higher for "max". NaN is never better. For `cooldown` epochs after a reduction
    none is counted. `min_scale` is the lowest that the rate's scale is brought to: torch's `min_lr`, at a rate of 1. A
    reduction by `eps` or less is left out.

    Its memory is a slot in the state: a resumed run reduces where an uninterrupted one does. It goes on from one fit to
    the next, as the scale does.
    """

    def __init__(
        self,
        monitor: str = "loss",
        mode: Literal["min", "max"] = "min",
        *,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_scale: float = 0.0,
        eps: float = 1e-8,
        phase: Phase = "eval",
        order: int = 0,
    ) -> None:
        super().__init__(monitor, mode, patience, phase, order)
        if not (is_number(factor) and 0 < factor < 1):
            raise ConfigError(f"factor is {factor!r}; expected a number above 0 and below 1, like 0.5.")
        if threshold_mode not in {"rel", "abs"}:
            raise ConfigError(f"threshold_mode is {threshold_mode!r}; expected 'rel' (a share) or 'abs'.")
        check_epochs("cooldown", cooldown, least=0)
        for name, given in (("threshold", threshold), ("min_scale", min_scale), ("eps", eps)):
            if not (is_number(given) and given >= 0):
                raise ConfigError(f"{name} is {given!r}; expected a finite number, 0 or more.")
        self.factor = factor
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_scale = min_scale
        self.eps = eps
        self.slot: Slot[Plateau] = Slot(f"nntrain.reduce_on_plateau.{self._slot_name}", Plateau, default=Plateau())

    def after_epoch(self, state: TrainState) -> TrainState:
        """Look at the phase's statistics; lower the rate when patience has run out."""
        value = self._now(state)
        if value is None:
            return state
        memory = state.get(self.slot)
        resting = memory.resting
        best, waited = (value, 0) if self._better(value, memory.best) else (memory.best, memory.waited + 1)
        if resting:
            resting, waited = resting - 1, 0
        if waited > self.patience:
            resting, waited = self.cooldown, 0
            lower = max(state.lr_scale * self.factor, self.min_scale)
            if state.lr_scale - lower > self.eps:
                state = evolved(state, lr_scale=float(lower))
        return state.put(self.slot, Plateau(best=best, waited=waited, resting=resting))

    def _better(self, value: float, best: float | None) -> bool:
        if best is None:  # torch begins with infinity
            return value < math.inf if self.mode == "min" else value > -math.inf
        if self.threshold_mode == "rel":
            share = 1.0 - self.threshold if self.mode == "min" else 1.0 + self.threshold
            least = best * share
        else:
            least = best - self.threshold if self.mode == "min" else best + self.threshold
        return value < least if self.mode == "min" else value > least
