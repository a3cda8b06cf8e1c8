"""What sinks are told: one `Transition` for each step of the machine, or batches in groups.

Sinks tell; they cannot change the training. Whatever has an effect is one: the printed line, a log, a progress bar.
A transition never holds the state before it, which would keep it and cost a copy.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from nntrain.values.history import EpochStats
from nntrain.values.log_event import LogEvent, Note
from nntrain.values.output import BatchOutput
from nntrain.values.progress import Phase, Place, Progress
from nntrain.values.record import FrozenMapping
from nntrain.values.state import TrainState
from nntrain.values.verdicts import Cancel, Event


class Whole(Protocol):
    """Returns a state with the shares of all ranks, or None where the first does not want it."""

    def __call__(self, state: TrainState, *, wanted: bool = True) -> TrainState | None:
        """Return the state that a checkpoint is to hold."""
        ...


class _CopiedConfig:
    """The configuration, copied each time it is asked for: one is there for all sinks of a run."""

    def __set__(self, holder: object, value: Mapping[str, object]) -> None:
        vars(holder)["config"] = value

    def __get__(self, holder: object, owner: type) -> Mapping[str, object]:
        copied: Mapping[str, object] = copy.deepcopy(vars(holder)["config"])
        return copied


@dataclass(frozen=True)
class RunInfo:
    """What may be told of the run: the learner in a line of words, and its configuration as plain values, a copy.

    `lr_at` gives the learning rate of an optimizer's step (0, 1, ...), before the state scales it; of several
    objectives that of the first. `group_lrs_at` gives those that `groups={...}` of an optimizer have of their own, by
    pattern, and of several objectives each one's, by name (`"g"`, `"g.backbone.*"`). `tell` takes an event that a sink
    has to tell, at any time and from any thread: the sinks are shown it with the next transition.

    Where several processes train together, `first_rank` says whether this is the one that writes for all. Amid a phase
    each has but its own share of what is summed up: `whole(state, wanted=...)` returns the state with those of all. All
    ranks call it at the same transition; it returns None where the first does not want it. `clock()` is in seconds, and
    the same on all ranks at a transition, so that they save by the clock together.
    """

    learner: str
    config: Mapping[str, object]
    device: str
    lr_at: Callable[[int], float]
    tell: Callable[[LogEvent], None]
    seed: int
    group_lrs_at: Callable[[int], Mapping[str, float]] = lambda _: FrozenMapping()
    first_rank: bool = True
    whole: Whole = lambda state, *, wanted=True: state if wanted else None
    clock: Callable[[], float] = time.monotonic


RunInfo.config = _CopiedConfig()  # type: ignore[assignment] # after the dataclass, which would take it for a default


@dataclass(frozen=True)
class Transition:
    """One step of the machine, after it was taken.

    `at` is where the machine stood and `progress` where the training did, when it began; `state` is the state after
    it. `event` is the last event that was published, and `verdict` and `by` who cancelled it. `output` is a batch's.
    `stats` is there where a phase's statistics were finished. `error` is there where the step failed; `state` is then
    the one that remains. `run` is what may be told of the run. `notes` are those that came up since the last one,
    `logged` the events that subscribers and sinks gave. `lr_scale` is what a batch's learning rate was multiplied with.
    `told` is there at the end of a train phase that wrote a short window of `accumulate`: what update rules say of that
    write, like `grad_norm`. What they say of any other is in the batch's `output.told`. `rank` is that of who answered,
    where several processes train together.
    """

    at: Place
    progress: Progress
    state: TrainState
    run: RunInfo
    event: Event | None = None
    verdict: Cancel | None = None
    by: str | None = None
    output: BatchOutput | None = None
    stats: EpochStats | None = None
    error: BaseException | None = None
    notes: tuple[Note, ...] = ()
    logged: tuple[LogEvent, ...] = ()
    lr_scale: float = 1.0
    told: Mapping[str, Tensor | float] = FrozenMapping()
    rank: int | None = None

    @classmethod
    def of_batch(
        cls, progress: Progress, state: TrainState, run: RunInfo, output: BatchOutput | None, lr_scale: float
    ) -> Transition:
        """Return the transition of a batch that there is nothing else to tell of, at a third of the price."""
        made = object.__new__(cls)
        vars(made).update(
            at="batch",
            progress=progress,
            state=state,
            run=run,
            event="after_batch",
            output=output,
            lr_scale=lr_scale,
        )
        return made


class BatchRan(NamedTuple):
    """An unwatched batch: where the training stands after it, its loss and metrics, and when that was.

    `epoch` to `samples` are those of `Progress`. `loss` and `metrics` are the batch's own, with what update rules tell
    (`grad_norm`): 0-dim tensors on the device, or numbers. `when` is what `time.monotonic()` gave. The learning rate
    was multiplied with `lr_scale`. `data` is the name of the set that is evaluated. `has_loss` says whether the task
    gave a loss: in eval it need not, and `loss` is NaN then.
    """

    epoch: int
    phase: Phase
    batch: int
    step: int
    samples: int
    loss: Tensor | float
    metrics: Mapping[str, Tensor | float]
    when: float
    lr_scale: float = 1.0
    data: str = ""
    has_loss: bool = True
