"""Go back to the last good state when the loss is not finite or jumps, and go on with other settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.subscribers.protocol import AnswerBatch, Subscriber
from nntrain.values.log_event import RolledBack
from nntrain.values.numbers import is_count, is_number
from nntrain.values.output import BatchOutput
from nntrain.values.record import FrozenMapping, Record, evolved
from nntrain.values.shards import on_all_ranks, own_part
from nntrain.values.slots import Slot
from nntrain.values.state import TrainState
from nntrain.values.tensors import Snapshot
from nntrain.values.verdicts import CancelBatch, CancelFit

_OTHERWISE: Final = 5  # folded into the key for another attempt
_SMOOTHING: Final = 0.1
"""The weight of the newest value in the smoothed mean loss that `spike` compares with."""


class LastGood(Record, frozen=True):
    """What `Rollback` remembers.

    `good` is the state to go back to; `times` how often that was done in this fit; `mean` the smoothed mean of the
    losses so far. `judged` says that the losses since `good` are good, too, and only the weights are to be checked.
    """

    good: TrainState | None = None
    times: int = 0
    mean: float | None = None
    judged: bool = False


class Rollback(Subscriber[object]):
    """Keep a good state every `every` steps; when the training goes wrong, go back to it, and go on with a lower rate.

    Wrong is a train loss, weights or an optimizer's state that are not finite, or, with `spike`, a mean loss over about
    `every` steps that is more than `spike` times the smoothed mean before (for losses above 0). From the good state the
    training goes on with the learning rate times `lr_factor` and, with `new_key`, with other random numbers: another
    order of the data, other noise. After `at_most` times within a fit, the fit is cancelled at the last good state.

    It checks every `every` steps, and at the end of a train phase, and reads losses from the running sums, so that it
    does not wait for a device at each batch. With `spike`, a state after a batch whose own loss is that high is not
    kept as a good one: it checks again after the next batch. All of its memory is a slot: the good state is saved with
    the state, and a resumed run goes back to it as an uninterrupted one would. Each return is a `rolled_back` in the
    log. It is asked before others, so that none of them acts on what is undone.
    """

    order = -1000
    slot: Final = Slot("nntrain.rollback", LastGood, default=LastGood())

    def __init__(
        self,
        every: int = 100,
        *,
        at_most: int = 3,
        lr_factor: float = 0.5,
        new_key: bool = True,
        spike: float | None = None,
    ) -> None:
        for name, given in (("every", every), ("at_most", at_most)):
            if not is_count(given, 1):
                raise ConfigError(f"{name} is {given!r}; expected a whole number from 1 up.")
        if not (is_number(lr_factor) and 0 < lr_factor <= 1):
            raise ConfigError(f"lr_factor is {lr_factor!r}; expected a number above 0, and 1 at most.")
        if lr_factor == 1 and not new_key:
            raise ConfigError("With lr_factor=1 and new_key=False the same would happen again. Change one of them.")
        if spike is not None and not (is_number(spike) and spike > 1):
            raise ConfigError(f"spike is {spike!r}; expected a finite number above 1, like 3.0, or None.")
        self.every = every
        self.at_most = at_most
        self.lr_factor: float = float(lr_factor)
        self.new_key = new_key
        self.spike = spike

    def before_fit(self, state: TrainState) -> TrainState:
        """Forget the fit before."""
        return self._remember(state, LastGood())

    def after_fit(self, state: TrainState) -> TrainState:
        """Drop the good state: it is not needed after the fit."""
        return self._remember(state, evolved(state.get(self.slot), good=None, judged=False))

    def before_batch(self, state: TrainState, batch: object) -> TrainState:  # noqa: ARG002 - the event has it
        """Keep the state, if one is due and it is good."""
        if state.progress.phase != "train":
            return state
        memory = state.get(self.slot)
        if memory.good is not None and not memory.judged:
            return state
        if state.tensors.read(first_not_finite) is not None or not math.isfinite(_total(state)):
            return state
        others = {name: kept for name, kept in state.slots.items() if name != self.slot.name}
        good = evolved(state, slots=FrozenMapping(others))
        return self._remember(state, evolved(memory, good=good, judged=False))

    def after_batch(self, state: TrainState, batch: object, output: BatchOutput) -> AnswerBatch:  # noqa: ARG002 - same
        """Check the losses, if due; go back where they are bad."""
        memory = state.get(self.slot)
        good, now = memory.good, state.progress
        if good is None:
            return state
        if memory.judged and now.phase == "train":  # and `before_batch` did not keep the state
            return self._back(state, memory, good, "the weights or the optimizer's memory are not finite")
        due = now.step - good.progress.step >= self.every if now.phase == "train" else now.batch == 1
        if not due or memory.judged:
            return state
        mean = _mean_since(good, state)
        if mean is None:
            return state
        if not math.isfinite(mean):
            return self._back(state, memory, good, f"the loss is {mean}")
        if self.spike is not None and memory.mean is not None and mean > self.spike * memory.mean:
            return self._back(state, memory, good, f"the loss is {mean:.4g}, after {memory.mean:.4g}")
        if now.phase != "train":
            return state
        usual = mean if memory.mean is None else memory.mean
        if self.spike is not None and not output.loss.item() <= self.spike * usual:
            return state  # it may be going wrong: check again after the next batch
        smoothed = usual + _SMOOTHING * (mean - usual)
        return self._remember(state, evolved(memory, mean=smoothed, judged=True))

    def _remember(self, state: TrainState, memory: LastGood) -> TrainState:
        return state.put(self.slot, memory)

    def _back(self, state: TrainState, memory: LastGood, good: TrainState, why: str) -> AnswerBatch:
        place = good.progress
        said = f"{why}, by step {state.progress.step}"
        if memory.times >= self.at_most:
            last = self._remember(good, evolved(memory, good=None, judged=False))
            return CancelFit(reason=f"{said}; went back {memory.times} times before", state=last)
        times = memory.times + 1
        event = RolledBack(
            reason=said,
            to_epoch=place.epoch,
            to_batch=place.batch,
            to_step=place.step,
            times=times,
            at_most=self.at_most,
            lr_scale=state.lr_scale * self.lr_factor,
            new_key=self.new_key,
        )
        otherwise = evolved(
            good,
            lr_scale=event.lr_scale,
            key=good.key.fold_in(_OTHERWISE, times) if self.new_key else good.key,
        )
        kept = self._remember(otherwise, evolved(memory, times=times, judged=False))
        return CancelBatch(reason=f"{said}: back to step {place.step}", state=kept.log(event))


def _mean_since(good: TrainState, state: TrainState) -> float | None:
    """Return the mean loss of the samples trained on since `good`, None where there are none."""
    total, samples, ended = 0.0, 0.0, False
    for stats in state.history[len(good.history) :]:
        if stats.phase == "train":
            total += stats.loss * stats.samples
            samples += stats.samples
            ended = ended or stats.epoch == good.progress.epoch
    now = state.progress
    if now.phase == "train":
        total += _total(state)
        samples += state.sums.weight
    if ended or (now.phase == "train" and now.epoch == good.progress.epoch):  # the phase of `good` was not cancelled
        total -= _total(good)
        samples -= good.sums.weight
    return total / samples if samples > 0 else None


def _total(state: TrainState) -> float:
    """Return the sum of the losses of the running phase."""
    return state.sums.weighted.tolist()[0] if state.sums.batches else 0.0


def first_not_finite(snapshot: Snapshot) -> str | None:
    """Return the name of the first tensor of parameters, buffers and the optimizer's state that is not finite.

    Waits for a device once. Of sharded ones each rank looks at its part, and all get a name if one does (collective).
    """
    named = [
        (name, own_part(tensor.detach()))
        for name, tensor in _named(
            {
                "params": snapshot.params,
                "buffers": snapshot.buffers,
                "optim": snapshot.optim.state,
                "rules": snapshot.optim.rules,
            },
            "",
        )
        if tensor.is_floating_point() or tensor.is_complex()
    ]
    with torch.no_grad():
        good = [tensor.isfinite().all() for _, tensor in named]
        elsewhere = [flag for flag in good if flag.device.type != "cpu"]
        finite = all(flag for flag in good if flag.device.type == "cpu") and (
            not elsewhere or bool(torch.stack(elsewhere).all())
        )
        if on_all_ranks(finite, snapshot.params.values()):
            return None
    return next((name for (name, _), flag in zip(named, good, strict=True) if not flag), "of another rank")


def _named(tree: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for name, part in tree.items():
            yield from _named(part, f"{path}/{name}" if path else str(name))
    elif isinstance(tree, (list, tuple)):
        for index, part in enumerate(tree):
            yield from _named(part, f"{path}/{index}")
