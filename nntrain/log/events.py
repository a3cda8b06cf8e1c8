"""nntrain's own events, each with its own fields. The fields that every line has are in `nntrain.log.line`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from nntrain.values.history import EpochStats
from nntrain.values.log_event import CheckpointLoaded, CheckpointSaved, Level, LogEvent, RolledBack, WarningEvent
from nntrain.values.progress import Phase
from nntrain.values.record import FrozenMapping, Record
from nntrain.values.verdicts import Event, Scope


class RunStarted(LogEvent, frozen=True):
    """A run began: what is trained, with what, on what.

    `config` has the learner in words, the model and its parameters, loss, metrics, optimizer, learning rate, data,
    versions, device, seed and host. Never environment variables nor arguments of a command. `world_size` is how many
    processes train together, where it is more than one: each logs the run, under the same id, with its own rank.
    """

    event: Literal["run_started"] = "run_started"
    config: FrozenMapping[object]
    world_size: int | None = Field(default=None, ge=2)


class FitStarted(LogEvent, frozen=True):
    """A fit began, or went on where it had stopped (`resumed`), towards `epochs` finished epochs.

    With a goal in steps it goes on until `until` optimizer steps are taken, and `epochs` is 0. `data` is the name of
    the set, where it goes on amid the evaluation of one.
    """

    event: Literal["fit_started"] = "fit_started"
    epochs: int = Field(ge=0)
    resumed: bool
    until: int | None = Field(default=None, ge=0)
    data: str | None = None


class EpochStarted(LogEvent, frozen=True):
    """A phase (train or eval) of an epoch began; `data` is the name of the set that is evaluated, if it has one."""

    event: Literal["epoch_started"] = "epoch_started"
    data: str | None = None


class BatchFinished(LogEvent, frozen=True):
    """A batch ran: its own loss and metrics, means over its samples, and what update rules tell, like `grad_norm`.

    `lr` is the learning rate that it was trained with, or for a batch that waits for more (`accumulate`) that of the
    step before; there is none in eval. `group_lrs` are those of the optimizer's
    `groups` that have their own, by pattern, and of several objectives by their names. `samples_per_s` is the rate
    since the values before were read, where there is one. `data` is the name of the set that is evaluated, if it has
    one. Where `has_loss` is false the task gave no loss, as it need not in eval, and `loss` is NaN.
    """

    level: ClassVar[Level] = "debug"
    event: Literal["batch_finished"] = "batch_finished"
    loss: float
    metrics: FrozenMapping[float]
    lr: float | None = None
    group_lrs: FrozenMapping[float] | None = None
    samples_per_s: float | None = Field(default=None, ge=0)
    data: str | None = None
    has_loss: Literal[False] | None = None


class EpochFinished(LogEvent, frozen=True):
    """A phase was finished: the means over its samples, the batches that ran, the seconds spent in them.

    `told` is what update rules tell, like `grad_norm`, of the write with which a train phase ended, where its last
    batches were fewer than `accumulate` takes. `data` is the name of the set that was evaluated, if it has one. Where
    `has_loss` is false the task gave no loss, as it need not in eval, and `loss` is NaN.
    """

    event: Literal["epoch_finished"] = "epoch_finished"
    loss: float
    metrics: FrozenMapping[float]
    batches: int = Field(ge=0)
    seconds: float
    told: FrozenMapping[float] | None = None
    data: str | None = None
    has_loss: Literal[False] | None = None


class CancelledEvent(LogEvent, frozen=True):
    """A subscriber cancelled a scope, at an event. Where several ranks train together it was that of `by_rank`."""

    event: Literal["cancelled"] = "cancelled"
    scope: Scope
    reason: str
    subscriber: str
    at: Event
    by_rank: int | None = Field(default=None, ge=0)


class PastPhase(Record, frozen=True):
    """A finished phase that lies behind a state: `EpochStats` as a log holds it."""

    epoch: int = Field(ge=0)
    phase: Phase
    loss: float
    metrics: FrozenMapping[float]
    samples: int = Field(ge=0)
    batches: int = Field(ge=0)
    seconds: float
    data: str | None = None
    has_loss: Literal[False] | None = None

    @classmethod
    def of(cls, stats: EpochStats) -> PastPhase:
        """Return the record of a phase's statistics."""
        fields = {name: getattr(stats, name) for name in cls.model_fields}
        return cls(**{**fields, "data": stats.data or None, "has_loss": None if stats.has_loss else False})

    def stats(self) -> EpochStats:
        """Return the statistics."""
        return EpochStats(**{**self.__dict__, "data": self.data or "", "has_loss": self.has_loss is not False})


class HistoryReplaced(LogEvent, frozen=True):
    """The training went on from another state than the one told before: what lies behind is another history now.

    Of the finished phases told so far the first `kept` still hold; `history` are those that come after them. It is
    told when a kept state is gone on with, or one of another log, or where lines were lost. `data` is the name of the
    set, where that state stands amid the evaluation of one.
    """

    event: Literal["history_replaced"] = "history_replaced"
    kept: int = Field(ge=0)
    history: tuple[PastPhase, ...]
    data: str | None = None


class FitFinished(LogEvent, frozen=True):
    """A fit ended: completed, or cancelled."""

    event: Literal["fit_finished"] = "fit_finished"
    outcome: Literal["completed", "cancelled"]


class RunFailed(LogEvent, frozen=True):
    """A step failed, Ctrl-C included. A run that is resumed after it goes on with a `fit_started`."""

    level: ClassVar[Level] = "error"
    event: Literal["run_failed"] = "run_failed"
    error_type: str
    error_message: str
    where: str
    traceback: str


class RunFinished(LogEvent, frozen=True):
    """The run came to its end. One that is trained further goes on with a `fit_started`."""

    event: Literal["run_finished"] = "run_finished"


class OtherEvent(LogEvent, frozen=True, extra="allow"):
    """A custom event whose class is not known to the reading process: `model_extra` has its fields."""


OwnEvent = Annotated[
    RunStarted
    | FitStarted
    | EpochStarted
    | BatchFinished
    | EpochFinished
    | CancelledEvent
    | HistoryReplaced
    | CheckpointSaved
    | CheckpointLoaded
    | RolledBack
    | WarningEvent
    | FitFinished
    | RunFailed
    | RunFinished,
    Field(discriminator="event"),
]
"""The union of nntrain's own events; the field `event` says which one it is."""

OWN: tuple[type[LogEvent], ...] = get_args(get_args(OwnEvent)[0])
"""nntrain's own events."""
