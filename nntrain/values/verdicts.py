"""What a subscriber may answer beside a state, and what a step returns.

Cancelling is a value that travels up, not an exception: `match` over an `Outcome` and `assert_never` type-checks.
"""

from __future__ import annotations

from typing import Literal

from nntrain.values.notebook import Cell, html_table
from nntrain.values.record import FrozenMapping, Record
from nntrain.values.state import TrainState

Event = Literal["before_fit", "after_fit", "before_epoch", "after_epoch", "before_batch", "after_batch"]
Scope = Literal["batch", "epoch", "fit"]


class CancelBatch(Record, frozen=True):
    """Skip what is left of this batch. `state`, if given, is the one to go on with."""

    reason: str = ""
    state: TrainState | None = None

    @property
    def scope(self) -> Scope:
        """The scope that is cancelled."""
        return "batch"


class CancelEpoch(Record, frozen=True):
    """Skip what is left of this phase: its batches, its statistics, its `after_epoch`."""

    reason: str = ""
    state: TrainState | None = None

    @property
    def scope(self) -> Scope:
        """The scope that is cancelled."""
        return "epoch"


class CancelFit(Record, frozen=True):
    """Skip what is left of this fit, `after_fit` too."""

    reason: str = ""
    state: TrainState | None = None

    @property
    def scope(self) -> Scope:
        """The scope that is cancelled."""
        return "fit"


Cancel = CancelBatch | CancelEpoch | CancelFit
"""A verdict: what a subscriber answers instead of a state, to skip the rest of a scope."""


class Completed(Record, frozen=True):
    """A step that ran to its end. `sink_failures` counts, by sink, the transitions that it failed to take."""

    state: TrainState
    sink_failures: FrozenMapping[int] = FrozenMapping()

    def _repr_html_(self) -> str:
        return _shown("Completed", (), self.sink_failures, self.state)


class Cancelled(Record, frozen=True):
    """A step that the subscriber `by` cancelled, at `event`, with `verdict`. `state` is the one to go on with.

    Where several processes train together, `rank` is the one whose subscriber it was.
    """

    state: TrainState
    verdict: Cancel
    by: str
    event: Event
    rank: int | None = None
    sink_failures: FrozenMapping[int] = FrozenMapping()

    def _repr_html_(self) -> str:
        verdict = self.verdict
        rows = (("verdict", type(verdict).__name__), ("reason", verdict.reason), ("by", self.by), ("event", self.event))
        return _shown("Cancelled", rows, self.sink_failures, self.state)


def _shown(
    caption: str, rows: tuple[tuple[str, Cell], ...], sink_failures: FrozenMapping[int], state: TrainState
) -> str:
    """Return what a notebook shows of an outcome."""
    failed = [("failed", f"{name}, {count:,} times") for name, count in sink_failures.items()]
    return html_table(caption, (*rows, *failed)) + state._repr_html_()


Outcome = Completed | Cancelled
"""What a step returns; `match` over it is exhaustive with these two."""
