"""How a batch is passed through the model: one `Pass` for each learner, and an `Engine` that runs it.

The pass is the forward pass with the loss, the backward pass and the metrics; the optimizer's write is put off. `Eager`
runs it with Python at each batch, compiled or not; `Recorded` launches what it once recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor

from nntrain.errors import add_note
from nntrain.live.compiled import CompileOptions, compiled
from nntrain.live.flight import Flight
from nntrain.live.workspace import Workspace
from nntrain.metrics.measured import MetricFn, measure
from nntrain.task.supervised import Supervised, Unpacked
from nntrain.values.output import BatchOutput
from nntrain.values.sums import WeightedSums
from nntrain.values.trees import described

Batch = TypeVar("Batch")
BatchIn_contra = TypeVar("BatchIn_contra", contravariant=True)


class Passed(NamedTuple):
    """What a pass came to: the batch's output, its samples, and the phase's sums with it.

    `means` are the batch's loss and metrics: numbers where reading one waits for nothing. `lr_scale` is the flight's.
    """

    output: BatchOutput
    samples: int
    weighted: WeightedSums
    means: Sequence[Tensor | float]
    lr_scale: float


class Engine(Protocol[BatchIn_contra]):
    """Runs a learner's pass. After `run`, the workspace waits for `commit`, `abandon` or, if it failed, `land`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics, in the order in which they are summed."""
        ...

    def run(self, batch: BatchIn_contra, weighted: WeightedSums, flight: Flight, *, bits: int, seen: bool) -> Passed:
        """Pass a batch through, under a seed of `bits`.

        `weighted` are the phase's sums before it. `seen` says whether anybody looks at the output: if so, it has memory
        of its own.
        """
        ...


class Pass(Generic[Batch]):
    """What the engines run: a workspace's module, with a task and metrics."""

    def __init__(
        self,
        workspace: Workspace,
        task: Supervised[Batch],
        metrics: Mapping[str, MetricFn],
        compile_options: CompileOptions | None,
    ) -> None:
        self.workspace = workspace
        self._task = task
        self._metrics = metrics
        self.names: tuple[str, ...] = tuple(metrics)
        traceable = task.traceable(workspace.module)
        self._compiled = None if compile_options is None else compiled(traceable, compile_options)
        self._training: bool | None = None

    def prepare(self, batch: Batch, *, train: bool) -> tuple[Unpacked, int]:
        """Set the module's mode; return the batch's parts, and the number of its samples."""
        module = self.workspace.module
        if self._training is not train or module.training is not train:
            module.train(train)
            self._training = train
        return self._task.parts(batch)

    def evaluate(self, parts: Unpacked, *, train: bool) -> tuple[Any, Tensor]:
        """Return the predictions and the loss."""
        if self._compiled is None:
            preds, loss = self._task.evaluate(self.workspace.module, parts)
        else:
            try:
                preds, loss = self._compiled(*parts)
            except Exception as error:
                add_note(error, f"nntrain: raised by the compiled model or loss_fn; the batch is {described(parts)}")
                raise
        return preds, self._task.check(loss, train=train)

    def measure(self, preds: object, target: object) -> dict[str, Tensor | float]:
        """Return each metric of a batch."""
        return measure(self._metrics, preds, target)
