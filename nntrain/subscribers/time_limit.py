"""Stop a fit when its time is over."""

from __future__ import annotations

from typing import Final

from nntrain.errors import ConfigError
from nntrain.subscribers.protocol import AnswerBatch, Subscriber
from nntrain.values.numbers import is_number
from nntrain.values.output import BatchOutput
from nntrain.values.record import Record
from nntrain.values.slots import Slot
from nntrain.values.state import TrainState
from nntrain.values.verdicts import CancelFit


class FitStart(Record, frozen=True):
    """What `TimeLimit` remembers: how many phases were finished when the fit began; None for none of the fit's own."""

    phases: int | None = None


class TimeLimit(Subscriber[object]):
    """Cancel the fit at the end of the batch with which it has taken `seconds`.

    It reads no clock of its own, for then the same state could be answered differently: it adds up the seconds that
    the state has counted, `state.sums.seconds` and those of the finished phases of this fit. So what was before an
    interruption counts in the run that goes on, and a state that is gone back to has the time that it had.

    Limits: counted is what batches take, with their data, subscribers and the optimizer's write; not what is between
    them (sinks, checkpoints), before (imports, making a model), or in phases that were cancelled, nor the write of the
    batch before an interruption. On a device it is the time of the process, which may be some batches ahead. Two runs
    do not stop at the same batch. For a job that is killed at a time by the clock, send SIGTERM before: a checkpoint
    sink saves the state, and the run can go on.
    """

    slot: Final = Slot("nntrain.time_limit", FitStart, default=FitStart())

    def __init__(self, seconds: float, *, order: int = 0) -> None:
        if not (is_number(seconds) and seconds > 0):
            raise ConfigError(f"seconds is {seconds!r}; expected a finite number above 0: TimeLimit(3600) for an hour.")
        self.seconds: float = float(seconds)
        self.order = order

    def before_fit(self, state: TrainState) -> TrainState:
        """Begin each fit with all of the time."""
        begun = FitStart(phases=len(state.history))
        return state if state.get(self.slot) == begun else state.put(self.slot, begun)

    def after_batch(self, state: TrainState, batch: object, output: BatchOutput) -> AnswerBatch:  # noqa: ARG002 - the event has them
        """Cancel the fit where its time is over."""
        since = state.get(self.slot).phases or 0
        taken = state.sums.seconds + sum(stats.seconds for stats in state.history[since:])
        if taken < self.seconds:
            return state
        return CancelFit(reason=f"the fit has taken {taken:.1f} s of the {self.seconds:g} s that it may")
