"""Where a training can stand, and what leads where: `TABLE` is the whole of it.

A step moves a state along one row. Cancelling is a value: a verdict picks another row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from torch import Tensor

from nntrain.subscribers.asking import Published
from nntrain.values.history import EpochStats
from nntrain.values.output import BatchOutput
from nntrain.values.progress import Place, Progress
from nntrain.values.record import evolved
from nntrain.values.state import TrainState
from nntrain.values.sums import Sums
from nntrain.values.verdicts import Cancel, Event

Cause = Literal["done", "exhausted", "next phase", "goal reached", "CancelBatch", "CancelEpoch", "CancelFit"]

TABLE: Final[dict[Place, dict[Cause, Place]]] = {
    "before_fit": {"next phase": "before_epoch", "goal reached": "after_fit", "CancelFit": "finished"},
    "before_epoch": {
        "done": "batch",
        "next phase": "before_epoch",
        "goal reached": "after_fit",
        "CancelFit": "finished",
    },
    "batch": {
        "done": "batch",
        "exhausted": "after_epoch",
        "CancelBatch": "batch",
        "next phase": "before_epoch",
        "goal reached": "after_fit",
        "CancelFit": "finished",
    },
    "after_epoch": {"next phase": "before_epoch", "goal reached": "after_fit", "CancelFit": "finished"},
    "after_fit": {"done": "finished", "CancelFit": "finished"},
    "finished": {},
}
"""Where each place leads, by cause. `CancelEpoch` leads on to the next phase, or to `after_fit` at the goal."""


class Step(NamedTuple):
    """What one step of the machine came to."""

    state: TrainState
    verdict: Cancel | None = None
    by: str = ""
    event: Event | None = None
    output: BatchOutput | None = None
    stats: EpochStats | None = None
    lr_scale: float = 1.0
    """What the batch's learning rate was multiplied with."""
    told: Mapping[str, Tensor | float] = MappingProxyType({})
    """What update rules said of a short window's write, at the end of a train phase."""
    rank: int | None = None
    """The rank of who answered, where several train together."""


def leave(published: Published, event: Event, sets: Sequence[str]) -> Step:
    """Return the step along the row of a place, from the event that was published there; of a batch, if cancelled.

    `sets` are those that are evaluated, by name.
    """
    state, verdict = published.state, published.verdict
    place = state.progress
    if verdict is not None and verdict.scope == "fit":
        after = moved_to(state, at="finished")
    elif verdict is not None and verdict.scope == "batch":
        after = moved_to(state, batch=place.batch + 1) if event == "before_batch" else state
    elif verdict is None and event == "before_epoch":
        after = moved_to(state, at="batch")
    elif event == "before_fit":
        after = moved_to(state, at="after_fit" if reached_goal(place) else "before_epoch")
    elif event == "after_fit":
        after = moved_to(state, at="finished")
    else:
        after = next_phase(state, sets)
    return Step(after, verdict, published.by, event, rank=published.rank)


def moved_to(state: TrainState, **changes: object) -> TrainState:
    """Return the state with another `progress`: only the named fields change."""
    return evolved(state, progress=evolved(state.progress, **changes))


def reached_goal(place: Progress) -> bool:
    """Return whether the fit's goal lies behind: between two epochs, where a training stands before `place.epoch`."""
    return place.epoch >= place.epochs if place.until is None else place.step >= place.until


def next_phase(state: TrainState, sets: Sequence[str]) -> TrainState:
    """Return the state at the next phase: eval of each set after train, then the next epoch, or `after_fit`."""
    place = state.progress
    left = sets if place.phase == "train" else sets[sets.index(place.data) + 1 :]
    changes: dict[str, object] = {"at": "before_epoch", "batch": 0, "samples": 0}
    if left:
        changes |= {"phase": "eval", "data": left[0]}
    else:
        changes |= {"phase": "train", "data": "", "epoch": place.epoch + 1}
    after = moved_to(state, **changes)
    if not left and reached_goal(after.progress):
        after = moved_to(after, at="after_fit")
    return evolved(after, sums=Sums())


def next_fit(state: TrainState, epochs: int, steps: int | None = None) -> TrainState:
    """Return the state at the beginning of a fit of so many more epochs, or `steps`, counted on from those behind."""
    place = state.progress
    begun = place.phase == "eval" or place.batch > 0
    epoch = place.epoch + begun
    begun_at = Progress(at="before_fit", epoch=epoch, step=place.step)
    goal = {"epochs": epoch + epochs} if steps is None else {"until": place.step + steps}
    return evolved(state, sums=Sums(), progress=evolved(begun_at, **goal))
