"""A batch's pass through the model: forward, loss, backward and metrics, with the optimizer's write put off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from nntrain.errors import DataError, LossError, MetricError, add_note
from nntrain.live.compiled import CompileOptions, compiled
from nntrain.live.workspace import Workspace
from nntrain.metrics.measured import MetricFn
from nntrain.task.batches import sample_count
from nntrain.task.supervised import LossFn, Unpacked
from nntrain.values.output import BatchOutput
from nntrain.values.randomness import seed_all
from nntrain.values.sums import WeightedSums
from nntrain.values.trees import described, tree_map

Batch = TypeVar("Batch")
_Called = Callable[[object, object], object]
Evaluate = Callable[[tuple[Any, ...], Mapping[str, Any], Any], tuple[Any, Any]]

_REUSING = ("reduce-overhead", "max-autotune")
"""The modes of `torch.compile` that give each call's results in the same memory, on CUDA."""


class Passed(NamedTuple):
    """What a pass came to: the batch's output, its samples, and the phase's totals with it.

    `means` are the batch's loss and metrics: numbers where reading one waits for nothing.
    """

    output: BatchOutput
    samples: int
    totals: WeightedSums
    means: Sequence[Tensor | float]


class Pass(Generic[Batch]):
    """The pass of one learner. After `run`, the workspace waits for `commit` or `abandon`."""

    def __init__(
        self,
        workspace: Workspace,
        loss_fn: LossFn,
        metrics: Mapping[str, MetricFn],
        unpack: Callable[[Batch], Unpacked],
        compile_options: CompileOptions | None,
    ) -> None:
        self.workspace = workspace
        self._metrics = cast(Mapping[str, _Called], metrics)
        self.names: tuple[str, ...] = tuple(metrics)
        self._loss_fn = cast(_Called, loss_fn)
        self._unpack = unpack
        self._compiled: Evaluate | None = None
        self._own = workspace.own
        if compile_options is not None:
            self._compiled = _compiled_evaluation(workspace.module, self._loss_fn, compile_options)
            if compile_options.get("mode") in _REUSING and workspace.device.type == "cuda":
                self._own = _copied
        self._sums_device = None if workspace.device.type == "cpu" else workspace.device
        self._training: bool | None = None

    def run(self, batch: Batch, totals: WeightedSums, *, step: int | None, bits: int, seen: bool) -> Passed:  # noqa: ARG002 - `seen` is for those that would hand out memory they use again
        """Pass a batch through, under a seed of `bits`: in training as `step`, in eval without one.

        `totals` are the phase's before it. `seen` says whether anybody will look at the output.
        """
        workspace = self.workspace
        seed_all(workspace.generators, bits)
        inputs, named, target, samples = self.prepared(batch, train=step is not None)
        outputs: list[tuple[Tensor, Any]] = []

        def forward() -> Tensor:
            preds, loss = self.evaluated(inputs, named, target, train=step is not None)
            if not outputs:
                outputs.append((self._own(loss), tree_map(preds, self._own)))
            return loss

        workspace.compute(forward, step=step)
        ((loss, preds),) = outputs
        try:
            measured = self.measured(preds, target)
            output = BatchOutput(loss, preds, MappingProxyType(measured))
            means: list[Tensor | float] = [loss, *measured.values()]
            if self._sums_device is None:
                means = [float(mean) for mean in means]
            return Passed(output, samples, totals.add(means, samples, self._sums_device, self.names), means)
        except BaseException:
            workspace.abandon()
            raise

    def prepared(self, batch: Batch, *, train: bool) -> tuple[tuple[Any, ...], Mapping[str, Any], Any, int]:
        """Set the module's mode, and take the batch apart: inputs by position, by name, target, samples."""
        module = self.workspace.module
        if self._training is not train or module.training is not train:
            module.train(train)
            self._training = train
        parts: object = self._unpack(batch)
        if not isinstance(parts, tuple) or len(parts) != 3:
            raise DataError(
                f"unpack {_name(self._unpack)} returned {described(parts)}; expected a tuple of three: inputs by "
                f"position (a tuple), inputs by name (a mapping), target."
            )
        samples = sample_count(batch)
        if samples == 0:
            raise DataError(f"The batch ({described(batch)}) has no samples.")
        return *parts, samples

    def evaluated(
        self, inputs: tuple[Any, ...], named: Mapping[str, Any], target: Any, *, train: bool
    ) -> tuple[Any, Tensor]:
        """Compute the predictions and the loss."""
        evaluate = self._compiled or self._eagerly
        preds, loss = evaluate(inputs, named, target)
        if not isinstance(loss, Tensor) or loss.ndim or (train and not loss.requires_grad):
            self._refuse_loss(loss)
        return preds, loss

    def _eagerly(self, inputs: tuple[Any, ...], named: Mapping[str, Any], target: Any) -> tuple[Any, Any]:
        preds = self.workspace.module(*inputs, **named)
        try:
            return preds, self._loss_fn(preds, target)
        except Exception as error:
            add_note(
                error, f"nntrain: raised by loss_fn; preds are {described(preds)}, the target is {described(target)}"
            )
            raise

    def _refuse_loss(self, loss: object) -> None:
        name = _name(self._loss_fn)
        if not isinstance(loss, Tensor) or loss.ndim:
            given = described(loss) if isinstance(loss, Tensor) else repr(loss)[:80]
            raise LossError(
                f"loss_fn {name} returned {given}; expected one number as a 0-dim tensor, like loss.mean()."
            )
        raise LossError(
            f"loss_fn {name} returned a loss without a gradient. Compute it from the model's output with torch "
            f"operations (no .item(), .detach() or argmax on the way)."
        )

    def measured(self, preds: object, target: object) -> dict[str, Tensor | float]:
        """Compute each metric."""
        return {name: self._measure(name, metric, preds, target) for name, metric in self._metrics.items()}

    def _measure(self, name: str, metric: _Called, preds: object, target: object) -> Tensor | float:
        try:
            value = metric(preds, target)
        except Exception as error:
            add_note(error, f"nntrain: raised by metric {name}; preds {described(preds)}, target {described(target)}")
            raise
        if isinstance(value, Tensor) and not value.ndim and not value.is_complex():
            return value.detach()
        if isinstance(value, (int, float)):
            return float(value)
        given = described(value) if isinstance(value, Tensor) else repr(value)[:80]
        raise MetricError(f"metric {name} returned {given}; expected a number, as a 0-dim tensor or a float.")


def _compiled_evaluation(module: torch.nn.Module, loss_fn: _Called, options: CompileOptions) -> Evaluate:
    def evaluate(inputs: tuple[Any, ...], named: Mapping[str, Any], target: Any) -> tuple[Any, Any]:
        preds = module(*inputs, **named)
        return preds, loss_fn(preds, target)

    return compiled(evaluate, options)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _name(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)
