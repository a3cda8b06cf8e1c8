"""What the layers of a model give: at one state (`activation_stats`), or again and again in a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Never, TypeVar, cast

import torch
from torch import Tensor, nn

from nntrain.errors import ConfigError, add_note
from nntrain.live.precision import Precision, autocasting, check_precision
from nntrain.looking.layers import check_patterns, layers_of, watched
from nntrain.looking.passes import Pass, first_batch, forward_of, forward_of_inputs, passed
from nntrain.machine.folding import check_state
from nntrain.machine.learner import Learner
from nntrain.machine.machine import eval_noise, machine_of
from nntrain.subscribers.protocol import Subscriber
from nntrain.task.batches import to_be_changed
from nntrain.task.supervised import Supervised, unpacked
from nntrain.task.task import Task, check_task
from nntrain.values.looks import Activations, LayerActivations
from nntrain.values.numbers import is_count, is_number
from nntrain.values.state import TrainState

Batch = TypeVar("Batch")
Layers = str | Sequence[str] | None
"""Which layers are meant: patterns of names as `fnmatch` reads them, or None for all that have none within."""


def activation_stats(
    learner: Learner[Batch, Any],
    state: TrainState,
    batch: Batch | None = None,
    *,
    layers: Layers = None,
    bins: int = 40,
    high: float = 10.0,
) -> Activations:
    """Return what the layers give for a batch with a state's weights, in train mode and in the learner's precision.

    The state and the learner are what they were: the pass is made by a module of its own. What is random in it, as
    dropout, is a function of the state's key and epoch.

    Args:
        learner: whose task it is; it must not be amid a step.
        state: with the weights.
        batch: as it is trained on; by default the first of the train data, in the order of the state's epoch.
        layers: which layers, by patterns of names: `"body.*"`, or a list; by default those that have none within.
        bins: how many bins the histograms have.
        high: where the last of them begins to be open: all greater absolute values are in it.

    Raises `ConfigError` for what cannot be meant, and what the caller's code raises.
    """
    check_state(state)
    _check(bins, high)
    patterns = check_patterns(layers, "activation_stats")
    machine = machine_of(learner)
    epoch = state.progress.epoch
    module = state.to_module(train=True)
    found = layers_of(module, patterns, "activation_stats")
    given = first_batch(machine, state.key, epoch) if batch is None else batch
    looks = _Looks(bins, high)
    with watched(found, looks.see):
        passed(
            machine, module.to(machine.workspace.device), forward_of(machine), given, eval_noise(state.key, epoch, 0)
        )
    return looks.read()


class ActivationStats(Subscriber[object]):
    """Log what the layers give for the first batch of each train phase, and for each `every`th after it.

    It is miniai's: the mean, the deviation, a histogram and the share of dead units of each layer, with the weights
    before the batch's step. The event log has them as `nntrain.activations`, and `nntrain report` draws them. The batch
    is passed once more through a copy of the model, in train mode: that costs a forward pass and a copy of the weights
    where it looks, and elsewhere what any subscriber to `before_batch` costs. It has no memory, and changes nothing:
    the fit keeps its bits. What is random, as dropout, is drawn anew, and is not what the step draws.

    Args:
        every: how many batches lie between two looks.
        layers: which layers, by patterns of names: `"body.*"`, or a list; by default those that have none within.
        task: what a batch means to the model, where that is more than inputs and a target: the learner's own. With
            `unpack=` of a learner it is `supervised(loss_fn, unpack=unpack)`.
        precision: what the pass computes in: that of the learner's `Engine`.
        bins: how many bins the histograms have.
        high: where the last of them begins to be open.

    Raises `ConfigError` for what cannot be meant; for a pattern that matches no layer, when a fit or a look begins.
    """

    def __init__(
        self,
        every: int = 100,
        *,
        layers: Layers = None,
        task: Task[Never, object] | None = None,
        precision: Precision = "fp32",
        bins: int = 40,
        high: float = 10.0,
        order: int = 0,
    ) -> None:
        if not is_count(every, 1):
            raise ConfigError(f"every is {every!r}; expected a whole number of batches, 1 or more.")
        _check(bins, high)
        check_precision(precision, None)
        if task is not None:
            check_task(task)
        self.every = every
        self.layers: tuple[str, ...] | None = check_patterns(layers, "ActivationStats")
        self.precision: Precision = precision
        self.bins = bins
        self.high = high
        self.order = order
        self._run: Pass = (
            cast("Pass", task)
            if task is not None and not isinstance(task, Supervised)
            else forward_of_inputs(unpacked if task is None else task.unpack)
        )

    def before_fit(self, state: TrainState) -> TrainState:
        """Raise `ConfigError` for a pattern that matches no layer, before anything is trained."""
        if self.layers is not None:
            layers_of(state.to_module(), self.layers, "ActivationStats")
        return state

    def before_batch(self, state: TrainState, batch: object) -> TrainState:
        """Look at a batch that is to be trained on; return the state with what was seen, for the log."""
        place = state.progress
        if place.phase != "train" or place.batch % self.every:
            return state
        module = state.to_module(train=True)
        looks = _Looks(self.bins, self.high)
        run = autocasting(self._run, self.precision, state.tensors.spec.device)
        try:
            with watched(layers_of(module, self.layers, "ActivationStats"), looks.see):
                run(module, to_be_changed(batch))
        except Exception as error:
            add_note(
                error, "nntrain: raised in the pass of ActivationStats, which has no task but ActivationStats(task=...)"
            )
            raise
        return state.log(looks.read())


class _Looks:
    """What is seen of the layers in one pass, on their device until it is read."""

    def __init__(self, bins: int, high: float) -> None:
        self._bins = bins
        self._high = float(high)
        self._seen: list[tuple[str, str, tuple[int, ...], Tensor, Tensor]] = []

    def see(self, name: str, layer: nn.Module, output: Tensor) -> None:
        """Note what a layer gave."""
        values = output.float()
        units = values.flatten(1) if values.ndim > 1 else values.reshape(-1, 1)
        std, mean = torch.std_mean(values, correction=0)
        dead = (units == 0).all(0).float().mean()
        magnitudes = values.abs().clamp(max=self._high)
        counts = torch.histc(magnitudes[magnitudes.isfinite()], self._bins, 0.0, self._high)
        self._seen.append((name, type(layer).__name__, tuple(output.shape), torch.stack([mean, std, dead]), counts))

    def read(self) -> Activations:
        """Return all that was seen."""
        layers = []
        for name, kind, shape, stats, counts in self._seen:
            mean, std, dead = stats.tolist()
            histogram = tuple(map(int, counts.tolist()))
            layers.append(
                LayerActivations(layer=name, kind=kind, shape=shape, mean=mean, std=std, dead=dead, histogram=histogram)
            )
        return Activations(high=self._high, layers=tuple(layers))


def _check(bins: object, high: object) -> None:
    if not is_count(bins, 1):
        raise ConfigError(f"bins is {bins!r}; expected a whole number of 1 or more.")
    if not (is_number(high) and high > 0):
        raise ConfigError(f"high is {high!r}; expected a finite number above 0, like 10.0.")
