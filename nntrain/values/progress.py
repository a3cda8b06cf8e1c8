"""Where a training stands: the place in the machine, and the counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from nntrain.values.flattening import Flat, Flattener
from nntrain.values.record import Record

Phase = Literal["train", "eval"]
"""The two phases of an epoch."""
Place = Literal["before_fit", "before_epoch", "batch", "after_epoch", "after_fit", "finished"]
"""Where the machine can stand. `nntrain.machine.table` has the table of what leads where."""


_LATER: Final[Mapping[str, object]] = {"data": "", "until": None}


class Progress(Record, Flat, frozen=True):
    """Where a training stands.

    `at` is the machine's place. `epochs` is the fit's goal: the number of epochs that lie behind when it is done.
    `epoch` counts from 0 and is the one that runs, or comes next. `batch` is the position in the phase's data: the
    batches that lie behind, cancelled ones too. `step` counts the optimizer's steps since `init`. `samples` are those
    of this phase that count in its means; weights on a device are not counted here, which would wait for it. `data` is
    the name of the set that is evaluated, "" where it has none, and in training. `until` is the goal of a fit that is
    given in steps: how many lie behind when it is done; `epochs` is then 0, and no goal.
    """

    at: Place = "before_fit"
    epochs: int = Field(default=0, ge=0)
    epoch: int = Field(default=0, ge=0)
    phase: Phase = "train"
    batch: int = Field(default=0, ge=0)
    step: int = Field(default=0, ge=0)
    samples: int = Field(default=0, ge=0)
    data: str = ""
    until: int | None = Field(default=None, ge=1)

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:  # noqa: ARG002 - of no tensor
        """Return the fields; those that came later only where they say something, so that older versions read them."""
        fields = dict(self.__dict__)
        return "record", {name: value for name, value in fields.items() if name not in _LATER or value != _LATER[name]}
