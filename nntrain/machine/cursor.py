"""Where a phase stands while its batches are taken, without a state for each of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nntrain.values.key import Key
from nntrain.values.progress import Phase, Progress
from nntrain.values.record import assembled
from nntrain.values.state import TrainState
from nntrain.values.sums import Sums, WeightedSums
from nntrain.values.tensors import Tensors


class Start(NamedTuple):
    """The state that a position counts on from, without its tensors, and what stays as it is meanwhile."""

    fields: dict[str, Any]
    given: set[str]
    progress: Progress
    sums: Sums
    key: Key
    phase: Phase
    train: bool
    data: str
    """Which data it reads: "train", or the set's name."""
    epoch: int
    until: float
    """At which step the phase is cut: the fit's goal, in training."""
    lr_scale: float
    ranks: int
    """How many ranks divide the batches: with several, weights are all in `weighted`, and `samples` are of all."""


class Position:
    """All of a state but its tensors, as a value: `after` returns the next.

    The counts and the sums are kept here and nowhere else. `step`, `batch` and `samples` are those of `Progress`.
    """

    __slots__ = ("_progress", "batch", "samples", "seconds", "start", "step", "weighted")

    def __init__(  # noqa: PLR0917 - made at each batch, where keywords would cost
        self, start: Start, batch: int, step: int, samples: int, weighted: WeightedSums, seconds: float
    ) -> None:
        self.start: Start = start
        self.batch: int = batch
        self.step: int = step
        self.samples: int = samples
        self.weighted: WeightedSums = weighted
        self.seconds: float = seconds
        self._progress: Progress | None = None

    @classmethod
    def of(cls, state: TrainState, ranks: int = 1) -> Position:
        """Return where a state stands."""
        fields = state.__dict__.copy()
        del fields["tensors"]
        place, sums = state.progress, state.sums
        train = place.phase == "train"
        start = Start(
            fields=fields,
            given=state.model_fields_set,
            progress=place,
            sums=sums,
            key=state.key,
            phase=place.phase,
            train=train,
            data="train" if train else place.data,
            epoch=place.epoch,
            until=place.until if train and place.until is not None else math.inf,
            lr_scale=state.lr_scale,
            ranks=ranks,
        )
        return cls(start, place.batch, place.step, place.samples, sums.weighted, sums.seconds)

    def after(self, samples: int, weighted: WeightedSums, seconds: float, *, steps: bool) -> Position:
        """Return where the training stands after one batch more of so many samples, which took `seconds`.

        `steps` says whether the optimizer writes with it.
        """
        step = self.step + steps
        return Position(self.start, self.batch + 1, step, self.samples + samples, weighted, self.seconds + seconds)

    @property
    def progress(self) -> Progress:
        """Where the training stands, as the state has it."""
        if self._progress is None:
            place = self.start.progress
            if self.batch == place.batch:
                self._progress = place
            else:
                fields = place.__dict__.copy()
                fields["batch"], fields["step"], fields["samples"] = self.batch, self.step, self.samples
                self._progress = assembled(Progress, fields, place.__pydantic_fields_set__)
        return self._progress

    def state(self, tensors: Tensors) -> TrainState:
        """Return the state, with its tensors."""
        start = self.start
        fields = start.fields.copy()
        fields["tensors"] = tensors
        if self.batch != start.progress.batch:
            place, sums = start.progress, start.sums
            fields["progress"] = self.progress
            counts = {
                "weighted": self.weighted,
                "samples": sums.samples if start.ranks > 1 else sums.samples + self.samples - place.samples,
                "batches": sums.batches + self.batch - place.batch,
                "seconds": self.seconds,
                "others": (),
                "ranks": start.ranks,
            }
            fields["sums"] = assembled(Sums, counts, sums.__pydantic_fields_set__)
        return assembled(TrainState, fields, start.given)


class Cursor:
    """Who holds the tensors while the batches of a phase are taken: nobody else, unless a state was made and kept.

    `now` is changed as one, so that no interrupt finds the counts of one value beside the tensors of another. Its last
    is the state that is reached, where one was made.
    """

    __slots__ = ("now",)

    def __init__(self, state: TrainState, ranks: int = 1) -> None:
        self.now: tuple[Position, Tensors, TrainState | None] = Position.of(state, ranks), state.tensors, state

    def state(self) -> TrainState:
        """Return the state that is reached."""
        position, tensors, state = self.now
        if state is None:
            state = position.state(tensors)
            self.now = position, tensors, state
        return state
