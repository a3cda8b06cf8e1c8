"""`overfit_one_batch`: whether a learner can learn one batch by heart, before it is given all of the data."""

from __future__ import annotations

from typing import Any, TypeVar

from nntrain.data.dataloaders import DataLoaders
from nntrain.errors import ConfigError
from nntrain.looking.passes import first_batch
from nntrain.machine.folding import check_state
from nntrain.machine.learner import Learner
from nntrain.machine.machine import machine_of
from nntrain.machine.steps import fit_step
from nntrain.values.numbers import is_count, is_number
from nntrain.values.progress import Progress
from nntrain.values.record import FrozenMapping, Record
from nntrain.values.state import TrainState, remember_state

Batch = TypeVar("Batch")


class Overfit(Record, frozen=True):
    """The loss, and each metric, of one batch at each step of a training on it alone.

    `passed` says whether the last loss is at most `share` of the first: a model that cannot learn one batch by heart,
    or a rate, a loss or a target that is wrong, will do no better with all of the data. It is meant for losses whose
    least value is 0.
    """

    losses: tuple[float, ...]
    metrics: FrozenMapping[tuple[float, ...]]
    share: float

    @property
    def passed(self) -> bool:
        """Whether the loss has fallen to the share of its first value that was asked for."""
        return self.losses[-1] <= self.share * self.losses[0]

    def __repr__(self) -> str:
        said = f"loss {self.losses[0]:.4g} to {self.losses[-1]:.4g}"
        said += "".join(f", {name} {values[0]:.4g} to {values[-1]:.4g}" for name, values in self.metrics.items())
        wanted = f"at most {self.share:.0%} of the first loss was asked for"
        return f"Overfit({len(self.losses)} steps, {said}: {'passed' if self.passed else 'not passed'}, {wanted})"

    __str__ = __repr__


def overfit_one_batch(
    learner: Learner[Batch, Any],
    state: TrainState,
    batch: Batch | None = None,
    *,
    steps: int = 100,
    share: float = 0.1,
) -> Overfit:
    """Return how the loss of one batch falls in a training on it alone, for so many steps from a state.

    The state, the learner and its training are afterwards what they were: the trial is made by another learner, with a
    workspace of its own, of the same model, task, rule and engine. Subscribers are not asked, and sinks not told. Each
    step is one batch, with `accumulate` too, and has the rate that the learner gives it. Dropout, weight decay and
    label smoothing keep a loss from falling all the way: leave them out here (`learner.replace(model=...)`), or ask for
    less.

    Args:
        learner: whose model is to learn the batch.
        state: to begin at.
        batch: as it is trained on; by default the first of the train data, in the order of the state's epoch.
        steps: how many steps it takes.
        share: of the first loss, to which the last one is to fall.

    Raises `ConfigError` for arguments that cannot be meant, and what the caller's code raises;
    `nntrain.state_before(error)` is then the state.
    """
    check_state(state)
    if not is_count(steps, 2):
        raise ConfigError(f"overfit_one_batch: steps is {steps!r}; expected a whole number of 2 or more.")
    if not (is_number(share) and 0 < share < 1):
        raise ConfigError(f"overfit_one_batch: share is {share!r}; expected a number between 0 and 1, like 0.1.")
    machine = machine_of(learner)
    place = state.progress
    try:
        given = first_batch(machine, state.key, place.epoch) if batch is None else batch
        trial = learner.replace(dls=DataLoaders([given], None), subs=[], sinks=[])
        here = Progress(at="before_epoch", epoch=place.epoch + (place.phase == "eval"), step=place.step)
        begun = TrainState(progress=here, tensors=state.tensors, key=state.key, lr_scale=state.lr_scale)
        history = fit_step(trial, begun, steps=place.step + steps).state.history
    except BaseException as error:
        remember_state(error, state)
        raise
    metrics = {name: tuple(stats.metrics[name] for stats in history) for name in history[0].metrics}
    return Overfit(losses=tuple(stats.loss for stats in history), metrics=FrozenMapping(metrics), share=share)
