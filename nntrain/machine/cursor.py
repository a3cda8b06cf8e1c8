"""Where a phase stands while its batches are taken, without a state for each of them."""

from __future__ import annotations

from typing import Any

from nntrain.values.key import Key
from nntrain.values.progress import Phase, Progress
from nntrain.values.record import evolved
from nntrain.values.state import TrainState
from nntrain.values.sums import WeightedSums
from nntrain.values.tensors import Tensors


class Position:
    """All of a state but its tensors, as a value: `after` returns the next.

    The counts and the sums are kept here and nowhere else; `fields` are the rest of the state, as its `TrainState` had
    them when these counts began. `step`, `batch` and `samples` are those of `Progress`.
    """

    __slots__ = ("batch", "fields", "samples", "seconds", "step", "train", "weighted")

    def __init__(  # noqa: PLR0917 - made at each batch, where keywords would cost
        self, fields: dict[str, Any], batch: int, step: int, samples: int, weighted: WeightedSums, seconds: float
    ) -> None:
        self.fields = fields
        self.train: bool = fields["progress"].phase == "train"
        self.batch = batch
        self.step = step
        self.samples = samples
        self.weighted = weighted
        self.seconds = seconds

    @classmethod
    def of(cls, state: TrainState) -> Position:
        """Return where a state stands."""
        fields = state.__dict__.copy()
        del fields["tensors"]
        place, sums = state.progress, state.sums
        return cls(fields, place.batch, place.step, place.samples, sums.weighted, sums.seconds)

    def after(self, samples: int, weighted: WeightedSums, seconds: float) -> Position:
        """Return where the training stands after one batch more of so many samples, which took `seconds`."""
        step = self.step + self.train
        return Position(self.fields, self.batch + 1, step, self.samples + samples, weighted, self.seconds + seconds)

    @property
    def key(self) -> Key:
        """The state's key."""
        key: Key = self.fields["key"]
        return key

    @property
    def epoch(self) -> int:
        """The epoch, from 0."""
        epoch: int = self.fields["progress"].epoch
        return epoch

    @property
    def phase(self) -> Phase:
        """The phase."""
        return "train" if self.train else "eval"

    @property
    def lr_scale(self) -> float:
        """What the learning rate is multiplied with."""
        scale: float = self.fields["lr_scale"]
        return scale

    @property
    def progress(self) -> Progress:
        """Where the training stands, as the state has it."""
        place: Progress = self.fields["progress"]
        if self.batch == place.batch:
            return place
        return evolved(place, batch=self.batch, step=self.step, samples=self.samples)

    def state(self, tensors: Tensors) -> TrainState:
        """Return the state, with its tensors."""
        place, sums = self.fields["progress"], self.fields["sums"]
        if self.batch == place.batch:
            return TrainState.of_fields({**self.fields, "tensors": tensors})
        running = evolved(
            sums,
            weighted=self.weighted,
            samples=sums.samples + self.samples - place.samples,
            batches=sums.batches + self.batch - place.batch,
            seconds=self.seconds,
        )
        return TrainState.of_fields({**self.fields, "progress": self.progress, "sums": running, "tensors": tensors})


class Cursor:
    """Who holds the tensors while the batches of a phase are taken: nobody else, unless a state was made and kept.

    `now` is changed as one, so that no interrupt finds the counts of one value beside the tensors of another.
    """

    __slots__ = ("now",)

    def __init__(self, state: TrainState) -> None:
        self.now: tuple[Position, Tensors] = Position.of(state), state.tensors

    @property
    def at(self) -> Position:
        """Where the training stands."""
        return self.now[0]

    def state(self) -> TrainState:
        """Return the state that is reached."""
        position, tensors = self.now
        return position.state(tensors)
