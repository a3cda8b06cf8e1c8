"""Stop a fit when its monitored value stops improving."""

from __future__ import annotations

import math
import re
from typing import Literal

from nntrain.errors import ConfigError
from nntrain.subscribers.monitoring import Monitoring, escaped
from nntrain.subscribers.protocol import AnswerEpoch
from nntrain.values.progress import Phase
from nntrain.values.record import Record
from nntrain.values.slots import Slot
from nntrain.values.state import TrainState
from nntrain.values.verdicts import CancelFit


class Patience(Record, frozen=True):
    """What `EarlyStopping` remembers: the best value so far, and how many phases since had no better one.

    `since` is the number of phases in the history when the fit began. The other two follow from that, the history and
    the settings, and are for whoever looks: they are worked out anew each time, as the settings may be others.
    """

    best: float | None = None
    waited: int = 0
    since: int | None = None


class EarlyStopping(Monitoring):
    """Cancel the fit when `monitor` has not improved for `patience` epochs.

    `monitor` is "loss" or a metric's name, read from the statistics of `phase`; of a set by name it is "far/loss".
    Better is lower for `mode` "min", and higher for "max", by more than `min_delta`; NaN is never better. Its memory is
    a slot in the state: a resumed run stops where an uninterrupted one does, and with other settings where one with
    these from the beginning would, at the next epoch's end at the earliest. Early stopping as in Prechelt, "Early
    Stopping - But When?", 1998.
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
        super().__init__(monitor, mode, patience, phase, order)
        if not (isinstance(min_delta, (int, float)) and math.isfinite(min_delta) and min_delta >= 0):
            raise ConfigError(f"min_delta is {min_delta!r}; expected a finite number, 0 or more.")
        self.min_delta = min_delta
        # Named by what is watched; two that watch the same, with other settings, put the same `since` there.
        self.slot: Slot[Patience] = Slot(
            f"nntrain.early_stopping.{self._slot_name}",
            Patience,
            default=Patience(),
            former=re.compile(rf"nntrain\.early_stopping\.{phase}_{mode}_[0-9]+_[^_]+_{escaped(monitor)}"),
        )

    def before_fit(self, state: TrainState) -> TrainState:
        """Begin each fit with full patience."""
        begun = Patience(since=len(state.history))
        return state.put(self.slot, begun) if state.get(self.slot) != begun else state

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """Look at the phase's statistics; cancel the fit when patience has run out."""
        if self._now(state) is None:
            return state
        best: float | None = None
        waited, since = 0, self._since(state)
        for one in state.history[since:]:
            value = self._watched_in(one)
            if value is not None:
                best, waited = (value, 0) if self._better(value, best) else (best, waited + 1)
        kept = state.put(self.slot, Patience(best=best, waited=waited, since=since))
        if waited < self.patience:
            return kept
        return CancelFit(reason=f"{self._said} has not got better than {best} for {waited} epochs", state=kept)

    def _since(self, state: TrainState) -> int:
        """Return how many phases were finished when the fit began; all but this one where nobody has looked yet."""
        memory = state.get(self.slot)
        if memory.since is not None:
            return memory.since
        # nntrain 0.1 kept only how long it waited: counted back from here.
        before = len(state.history) - 1
        looked_at = [index for index in range(before) if state.history[index].phase == self.phase]
        counted = min(memory.waited + (memory.best is not None), len(looked_at))
        return looked_at[-counted] if counted else before

    @property
    def _said(self) -> str:
        return self.monitor if "/" in self.monitor else f"{self.phase} {self.monitor}"

    def _better(self, value: float, best: float | None) -> bool:
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value < best - self.min_delta if self.mode == "min" else value > best + self.min_delta
