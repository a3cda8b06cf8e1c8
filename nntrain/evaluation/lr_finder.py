"""`lr_find`: the learning rate grows with each step of a trial training, until the loss diverges."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from nntrain.data.dataloaders import DataLoaders
from nntrain.errors import ConfigError, LossError
from nntrain.evaluation.range_test import RangeTest
from nntrain.machine.folding import check_state
from nntrain.machine.learner import Learner
from nntrain.machine.machine import machine_of
from nntrain.machine.steps import fit_step
from nntrain.ranks.ranks import Ranks
from nntrain.subscribers.protocol import AnswerBatch, Subscriber
from nntrain.update.chaining import optimizer_of, with_optimizers
from nntrain.update.schedules import Hyper, is_schedule
from nntrain.update.torch_rule import OptimizerRule, optimizer
from nntrain.values.numbers import is_count, is_number
from nntrain.values.output import BatchOutput
from nntrain.values.progress import Progress
from nntrain.values.record import FrozenMapping, Record, evolved
from nntrain.values.slots import Slot
from nntrain.values.state import TrainState, remember_state
from nntrain.values.verdicts import CancelFit

Batch = TypeVar("Batch")


def lr_find(
    learner: Learner[Batch, Any],
    state: TrainState,
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.98,
    diverged: float | None = 4.0,
) -> RangeTest:
    """Return the losses of a trial training from a state, whose learning rate grows from `start` to `end`.

    It is fastai's `lr_find`. The state, the learner and its training are afterwards what they were: the trial is made
    by another learner, with a workspace of its own, of the same model, train data, task, rule and engine. Subscribers
    are not asked, and sinks not told. It takes the batches of the epoch at which the state stands, from its first one
    on, and those of the epochs after; the optimizer's memory is the state's, `state.lr_scale` is not looked at.

    Args:
        learner: whose rate is not used. Parameter groups and further optimizers of a chain, which have rates of their
            own, keep them in proportion to it, and the rates that are returned are those of the first optimizer's `lr`.
        state: to begin at.
        start: the first rate.
        end: the last one; each is the one before times the same factor.
        steps: how many steps of the optimizer it takes; with `accumulate`, the loss of each is the mean of its batches.
        smoothing: the losses' decay, 0 for none: exponentially weighted means, corrected for their beginning.
        diverged: how many times its lowest value the smoothed loss must reach for it to stop, None for never. A loss
            that is not finite ends it too, and is left out.

    Raises `ConfigError` for arguments that cannot be meant and a learner of several objectives, `LossError` where not
    even the first loss is finite, and what the caller's code raises; `nntrain.state_before(error)` is then the state.
    """
    check_state(state)
    _check(start, end, steps, smoothing, diverged)
    machine = machine_of(learner)
    place = state.progress
    # An optimizer is made with the rate of step 0, to which a factory's groups have theirs in proportion: that is the
    # learner's own, so that step is none of the trial.
    begin = max(place.step, 1)
    rates = _Rates(start, end, steps, begin)
    finder = _Finder(smoothing, diverged, machine.ranks)
    trial = _trial(learner, rates, finder, place.step)
    here = Progress(at="before_epoch", epoch=place.epoch + (place.phase == "eval"), step=begin)
    begun = TrainState(progress=here, tensors=state.tensors, key=state.key)
    try:
        outcome = fit_step(trial, begun, steps=begin + steps)
    except BaseException as error:
        remember_state(error, state)
        raise
    finally:
        machine.streams["train"].close()  # its data may have been told of another epoch; it is begun again at its place
    losses = finder.losses(outcome.state)
    if not losses:
        raise LossError(
            f"lr_find: the loss at the first rate, {start:g}, is not finite. Look at the model, the data and the loss."
        )
    return RangeTest(lrs=tuple(rates(begin + at) for at in range(len(losses))), losses=losses, steps=steps)


@dataclass(frozen=True)
class _Rates:
    """The rates of a trial that begins at step `begin`; before it, what the optimizer is made with."""

    start: float
    end: float
    steps: int
    begin: int
    made_with: float = 0.0
    times: float = 1.0

    def __call__(self, step: int) -> float:
        if step < self.begin:
            return self.made_with
        grown = (self.end / self.start) ** ((step - self.begin) / (self.steps - 1))
        return float(self.times * (self.start * grown))


class _Losses(Record, frozen=True):
    """The mean loss of each step so far, the first of them numbered `first`, and what its batches weigh.

    Of the batch that runs there is the `step`, and the weight of those `behind` it in the phase, with their `losses`
    times that where several ranks share a batch.
    """

    means: tuple[tuple[float, float], ...] = ()
    first: int = 0
    step: int = 0
    behind: float = 0.0
    losses: float = 0.0


class _Finder(Subscriber[object]):
    """Notes the losses of a trial, and ends it when they diverge."""

    slot: Final = Slot("nntrain.lr_find", _Losses, default=_Losses())

    def __init__(self, smoothing: float, diverged: float | None, ranks: Ranks | None) -> None:
        self._smoothing = smoothing
        self._ranks = ranks
        self._diverged = math.inf if diverged is None else diverged

    def before_batch(self, state: TrainState, batch: object) -> TrainState:  # noqa: ARG002 - the event has it
        """Note of which step the batch is."""
        memory, step = state.get(self.slot), state.progress.step
        first = memory.first if memory.means else step
        return state.put(self.slot, evolved(memory, first=first, step=step, **self._behind(state)))

    def after_batch(self, state: TrainState, batch: object, output: BatchOutput) -> AnswerBatch:  # noqa: ARG002 - same
        """Take the batch's loss into the mean of its step; cancel the fit where they diverge."""
        memory = state.get(self.slot)
        now = self._behind(state)
        weight = now["behind"] - memory.behind
        loss = output.loss.item()
        if self._ranks is not None:  # that is but the loss of this rank's part
            loss = (now["losses"] - memory.losses) / weight if weight else 0.0
        at = memory.step - memory.first
        mean, weighed = memory.means[at] if at < len(memory.means) else (loss, 0.0)
        if weighed + weight:
            mean += (loss - mean) * (weight / (weighed + weight))
        means = (*memory.means[:at], (mean, weighed + weight))
        state = state.put(self.slot, evolved(memory, means=means))
        if not math.isfinite(loss):
            return CancelFit(reason=f"the loss is {loss}", state=state)
        losses = self.losses(state)
        if losses and losses[-1] > min(losses) + (self._diverged - 1) * abs(min(losses)):
            return CancelFit(reason=f"the loss is {losses[-1]:.4g}, after {min(losses):.4g}", state=state)
        return state

    def _behind(self, state: TrainState) -> dict[str, float]:
        """Return what is behind the training in its phase, on all ranks."""
        weight = state.sums.weight
        if self._ranks is None:
            return {"behind": weight}
        rows = self._ranks.rows([weight, *state.sums.weighted.tolist()[:1]] if state.sums.batches else [0.0, 0.0])
        return {"behind": sum(row[0] for row in rows), "losses": sum(row[1] for row in rows)}

    def losses(self, state: TrainState) -> tuple[float, ...]:
        """Return the smoothed losses of the steps that were taken, up to the first that is not finite."""
        memory = state.get(self.slot)
        smoothed: list[float] = []
        value, keep = 0.0, self._smoothing
        for count, (mean, _) in enumerate(memory.means[: state.progress.step - memory.first], start=1):
            if not math.isfinite(mean):
                break
            value = keep * value + (1 - keep) * mean
            smoothed.append(value / (1 - keep**count))
        return tuple(smoothed)


def _trial(learner: Learner[Batch, Any], rates: _Rates, finder: _Finder, step: int) -> Learner[Batch, Any]:
    """Return the learner that makes the trial: the same one, with these rates, that nobody watches but the finder."""
    if learner.objectives is not None:
        raise ConfigError(
            f"lr_find: this learner has the objectives {', '.join(one.name for one in learner.objectives)}, each with "
            f"an optimizer of its own, and there is no one loss for a rate. Try each of them in a learner of one task."
        )
    dls = DataLoaders(learner.dls.train, None)
    first = optimizer(learner.optim_class, lr=learner.lr) if learner.update is None else optimizer_of(learner.update)
    # Where the first optimizer has a rate, which the others are in proportion to: a warm-up may begin at 0.
    at = next((later for later in range(step, step + rates.steps) if first.lr_at(later) > 0), None)

    def times(lr: Hyper, where: str) -> float:
        if at is None or lr is None:
            raise ConfigError(
                f"lr_find: {where} has {'no' if lr is None else 'an'} lr of its own, and the first optimizer "
                f"{'none above 0' if at is None else 'one'}, so that they are in no proportion. Give both of them one: "
                f"optimizer(..., lr=1e-3)."
            )
        theirs: Any = lr(at) if is_schedule(lr) else lr
        return float(theirs / first.lr_at(at))

    def tried(rule: OptimizerRule) -> OptimizerRule:
        own = rule.lr_at(0)
        own_rates = replace(rates, made_with=rates.start if math.isnan(own) else own)
        ratio = 1.0 if rule is first else times(rule.hyperparameters.get("lr"), repr(rule))
        groups = {
            pattern: values.put("lr", replace(own_rates, times=times(values["lr"], f"groups[{pattern!r}]")))
            if "lr" in values
            else values
            for pattern, values in rule.groups.items()
        }
        hyperparameters = rule.hyperparameters.put("lr", replace(own_rates, times=ratio))
        return replace(rule, hyperparameters=hyperparameters, groups=FrozenMapping(groups))

    if learner.update is None:
        lr: Any = tried(first).hyperparameters["lr"]
        return learner.replace(dls=dls, subs=[finder], sinks=[], lr=lr)
    return learner.replace(dls=dls, subs=[finder], sinks=[], update=with_optimizers(learner.update, tried))


def _check(start: float, end: float, steps: int, smoothing: float, diverged: float | None) -> None:
    """Raise `ConfigError` for arguments that cannot be meant."""
    if not (is_number(start) and is_number(end) and 0 < start < end):
        raise ConfigError(f"lr_find: start is {start!r} and end {end!r}; expected rates above 0, the second higher.")
    if not is_count(steps, 2):
        raise ConfigError(f"lr_find: steps is {steps!r}; expected a whole number of 2 or more.")
    if not (is_number(smoothing) and 0 <= smoothing < 1):
        raise ConfigError(f"lr_find: smoothing is {smoothing!r}; expected a number from 0, and below 1.")
    if diverged is not None and not (is_number(diverged) and diverged > 1):
        raise ConfigError(f"lr_find: diverged is {diverged!r}; expected a number above 1, like 4.0, or None for never.")
