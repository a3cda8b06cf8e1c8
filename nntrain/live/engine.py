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
from nntrain.live.outside import Outside
from nntrain.live.workspace import Workspace
from nntrain.metrics.measured import measure
from nntrain.metrics.phase import PhaseMetrics
from nntrain.task.batches import to_device
from nntrain.task.supervised import Supervised, Unpacked
from nntrain.values.memory import Memory
from nntrain.values.output import BatchOutput, StepOutput
from nntrain.values.sums import Weight, WeightedSums
from nntrain.values.trees import described, tensors_of

Batch = TypeVar("Batch")
BatchIn_contra = TypeVar("BatchIn_contra", contravariant=True)


class Passed(NamedTuple):
    """What a pass came to: the batch's output, its samples (its weight, if an int), and the phase's sums with it.

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
        metrics: PhaseMetrics,
        compile_options: CompileOptions | None,
    ) -> None:
        self.workspace = workspace
        self._task = task
        self._metrics = metrics.functions
        self.names: tuple[str, ...] = tuple(metrics.functions)
        self.remembers: PhaseMetrics | None = metrics if metrics.whole else None
        """The metrics, where one of them has a memory."""
        traceable = task.traceable(workspace.module)
        self._compiled = None if compile_options is None else compiled(traceable, compile_options)
        self._training: bool | None = None
        self._moves = False
        """Whether the parts are to be moved: `unpack` takes them out of what cannot be moved by itself."""
        self._outside: Outside = workspace.outside(task.loss_fn)
        self._watched: dict[bool, bool] = {}
        """Whether a pass was looked at, in training and in eval."""
        self._looks = True

    def prepare(self, batch: Batch, *, train: bool) -> tuple[Unpacked, Weight]:
        """Set the module's mode; return the batch's parts, and how much it weighs."""
        module = self.workspace.module
        begins = self._training is not train or module.training is not train
        if begins:
            if train:
                self.workspace.check_trainable()
            self.workspace.switch(train=train)
        parts, weight = self._task.parts(batch)
        if begins:
            self._task.look_at(batch, parts, weight)
            self._moves = any(tensor.device != self.workspace.device for tensor in tensors_of(parts))
            self._training = train
            self._looks = not self._watched.get(train, False)
        return (to_device(parts, self.workspace.device) if self._moves else parts), weight

    def evaluate(self, parts: Unpacked, *, train: bool) -> tuple[Any, Tensor]:
        """Return the predictions and the loss; of a first pass, refuse what uses weights outside the state."""
        if self._compiled is None and not self._looks:
            preds, found = self._task.evaluate(self.workspace.module, parts)
        elif self._compiled is None:
            with self._outside.watched():
                preds, found = self._task.evaluate(self.workspace.module, parts)
        else:  # what is compiled under a mode would be compiled anew without it
            try:
                preds, found = self._compiled(*parts)
            except Exception as error:
                add_note(error, f"nntrain: raised by the compiled model or loss_fn; the batch is {described(parts)}")
                raise
        loss = self._task.check(found, train=train)
        if self._looks and train:
            self._outside.check_graph(loss)
        return preds, loss

    def remember(self, weighted: WeightedSums, output: StepOutput[Any]) -> Mapping[str, Memory]:
        """Return what the metrics of a whole phase remember with a batch more; to be called before `measure`."""
        if self.remembers is None:
            return {}
        if self._looks:
            with self._outside.watched():
                return self.remembers.update(weighted.memory, output)
        return self.remembers.update(weighted.memory, output)

    def measure(self, preds: object, target: object) -> dict[str, Tensor | float]:
        """Return each metric of a batch."""
        if self._looks:
            with self._outside.watched():
                found = measure(self._metrics, preds, target)
            self._watched[self._training is True] = True
            self._looks = False
            return found
        return measure(self._metrics, preds, target)
