"""How a batch is passed through the model: one `Pass` for each learner, and a `Runner` of it.

The pass is the forward pass with the loss, the backward pass and the metrics; the optimizer's write is put off. `Eager`
runs it with Python at each batch, compiled or not; `Recorded` launches what it once recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from nntrain.data.dividing import Part
from nntrain.errors import ConfigError, LossError, MetricError, add_note
from nntrain.live.compiled import CompileOptions, compile_options, compiled, reuses_memory
from nntrain.live.flight import Flight
from nntrain.live.fused import Forward, Fused
from nntrain.live.outside import Outside
from nntrain.live.over_ranks import Distributed, Shares, Weighed, averaged
from nntrain.live.precision import MatmulPrecision, Precision, autocasting, check_precision
from nntrain.live.workspace import Workspace, as_device
from nntrain.metrics.measured import measure
from nntrain.metrics.phase import PhaseMetrics
from nntrain.ranks.options import Parallel, Sharded, as_parallel
from nntrain.ranks.ranks import Ranks
from nntrain.task.batches import to_be_changed
from nntrain.task.carrying import Carried
from nntrain.task.supervised import Supervised
from nntrain.task.task import Called, Task, check_output, no_weight, odd_output, source_of, weight_of
from nntrain.update.live_update import Live, LiveUpdate
from nntrain.values.log_event import Note
from nntrain.values.memory import Memory
from nntrain.values.output import BatchOutput, StepOutput
from nntrain.values.randomness import restoring_rng
from nntrain.values.record import FrozenMapping
from nntrain.values.sums import Weight, WeightedSums
from nntrain.values.trees import described, tensors_of

Batch = TypeVar("Batch")
OutOfMemory = Literal["raise", "halve"]
"""What becomes of a batch that runs out of memory."""
BatchIn_contra = TypeVar("BatchIn_contra", contravariant=True)


@dataclass(frozen=True)
class Engine:
    """How a learner's batches are run, never what they compute.

    Args:
        device: where to train; by default where the model is.
        compile: whether `torch.compile` is to compile the task (of `supervised`, the model with the loss), in training
            with its gradients, and the optimizer's step; or its options, like `{"mode": "max-autotune"}`.
        precision: what the task computes in: "fp32", or under torch's autocast "bf16" or "fp16". Weights stay as they
            are. With "fp16" the rule `loss_scale()` stands first in each chain, unless the chain has one.
        float32_matmul: how precise products of float32 matrices are while the learner steps: "highest", "high" or
            "medium", as `torch.set_float32_matmul_precision` takes it. None leaves it to the caller.
        capture: whether to record each shape of batch once as CUDA graphs, and then launch these. What cannot be
            recorded, and everything on a CPU, runs plainly; the log says so.
        parallel: how the processes that `torchrun` starts share the training: "data", each with the whole model, or
            "sharded", each with a part of it; or `DataParallel(...)` or `Sharded(...)`, which have options. Each
            takes a part of each batch, whose size is that of the whole; a process by itself takes all.
        deterministic: whether the learner steps with operations alone that have the same bits in each run, as
            `torch.use_deterministic_algorithms` and cuDNN have it; the caller's settings are as before afterwards.
        oom: what becomes of a batch that runs out of memory. With "raise" it raises torch's error. With "halve" it is
            tried again in 2, 4 ... up to 64 parts, whose gradients are added up by weight; the log says so.

    Raises `ConfigError` for what cannot be meant.
    """

    device: torch.device | str | None = None
    compile: bool | Mapping[str, object] = False
    capture: bool = False
    precision: Precision = "fp32"
    float32_matmul: MatmulPrecision | None = None
    parallel: Literal["data", "sharded"] | Parallel | None = None
    deterministic: bool = False
    oom: OutOfMemory = "raise"

    def __post_init__(self) -> None:
        """Check every argument."""
        compile_options(self.compile)
        if not isinstance(self.capture, bool):
            raise ConfigError(f"capture is {self.capture!r}; expected True or False.")
        if not isinstance(self.deterministic, bool):
            raise ConfigError(f"deterministic is {self.deterministic!r:.80}; expected True or False.")
        check_precision(self.precision, self.float32_matmul)
        if isinstance(self.compile, Mapping):
            object.__setattr__(self, "compile", FrozenMapping(self.compile))
        object.__setattr__(self, "device", as_device(self.device))
        object.__setattr__(self, "parallel", as_parallel(self.parallel))
        if self.compile and isinstance(self.parallel, Sharded):
            raise ConfigError(
                "compile traces a pass as it is at first, and parallel='sharded' gathers parameters for each part of "
                "it. Leave compile out, or train with parallel='data'."
            )
        if self.capture and self.parallel is not None:
            raise ConfigError(
                "capture records a batch on one device, and parallel sums over several; a recording holds no such sum. "
                "Leave one of them out; compile=True goes with parallel='data'."
            )
        if self.oom not in get_args(OutOfMemory):
            raise ConfigError(f"oom is {self.oom!r:.80}; expected 'raise' or 'halve'.")
        if self.oom == "halve" and (self.capture or self.parallel is not None):
            raise ConfigError(
                "oom='halve' passes a batch again in parts, "
                + (
                    "and capture launches what was recorded of whole batches"
                    if self.capture
                    else "and with parallel each rank would have parts of its own, while the others wait"
                )
                + ". Leave one of them out."
            )


class Passed(NamedTuple):
    """What a pass came to: the batch's output, its samples (its weight, if an int), and the phase's sums with it.

    `means` are the batch's loss and metrics: numbers where reading one waits for nothing. `lr_scale` is the flight's.
    """

    output: BatchOutput
    samples: int
    weighted: WeightedSums
    means: Sequence[Tensor | float]
    lr_scale: float


class Runner(Protocol[BatchIn_contra]):
    """Runs a learner's pass. After `run`, the workspace waits for `commit`, `abandon` or, if it failed, `land`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics, in the order in which they are summed."""
        ...

    @property
    def supervised(self) -> bool:
        """Whether the task is the original's: without parts, and with a weight that it has checked."""
        ...

    @property
    def carrying(self) -> tuple[str, ...]:
        """The objectives whose tasks hand something from batch to batch; "task" where there is one without a name."""
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
        task: Task[Batch, Any],
        metrics: PhaseMetrics,
        options: CompileOptions | None,
        *,
        warn: Callable[[Note], None],
        tell: Callable[[Note], None],
        name: str = "",
        ranks: Ranks | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        self.workspace = workspace
        self.name: str = name or "task"
        rule = workspace.rule_of(name)
        self.trained: Mapping[str, Tensor] = rule.trained
        """The parameters that its rule trains."""
        self.scaled: Callable[[Tensor], Tensor] | None = rule.loss if rule.scales_loss else None
        """Returns the loss to go backward from, where that is another."""
        self.task = task
        self._metrics = metrics.functions
        self._metric_names = metrics.names
        self.names: tuple[str, ...] = tuple(metrics.functions)
        self.remembers: PhaseMetrics | None = metrics if metrics.whole else None
        """The metrics, where one of them has a memory."""
        self.supervised: bool = isinstance(task, Supervised)
        self.carries: Carried[Batch, Any, Any] | None = task if isinstance(task, Carried) else None
        """The task, where it hands something from batch to batch."""
        self._warn = warn
        self._warned = False
        self._model: nn.Module = workspace.module
        self.shares: Shares | None = None
        """What this rank's parts of batches weigh, where there are others."""
        self._averages: Callable[[], None] | None = None
        """Makes gradients their means over the ranks after the backward pass, where that does not do it."""
        self.weighed: Weighed = Weighed(0, 0, 0.0, 0)
        """What this rank's part of the last batch weighs."""
        self._fused: Fused | None = None
        """What makes the gradients with the forward pass, where that may be."""
        self._compiled: dict[bool, Called[Batch]] = (
            {} if options is None else self._compile(options, tell, alone=ranks is None)
        )
        """What runs in training and in eval, where that is not the task itself."""
        self._run = autocasting(cast(Called[Batch], task), workspace.precision, workspace.device)
        if ranks is not None and parallel is not None:
            self._share(ranks, parallel, rule)
        self._training: bool | None = None
        gives = (task.loss_fn, "loss_fn") if isinstance(task, Supervised) else (task, "the task")
        self._outside: Outside = workspace.outside(*gives)
        self._watched: dict[bool, bool] = {}
        """Whether a pass was looked at, in training and in eval."""
        self.looks: bool = True
        """Whether the next pass is looked at: it is the first in its mode."""

    def _share(self, ranks: Ranks, parallel: Parallel, rule: Live) -> None:
        """Make the gradients means over all ranks: in the backward pass, or after it, or where the rule writes."""
        if isinstance(parallel, Sharded):  # the backward pass does it, for each part of the model
            self.shares = Shares(ranks, [], alone=False)
            return
        alone = isinstance(rule, LiveUpdate) and rule.accumulates_alone
        self.shares = Shares(ranks, [*self.trained.values()], alone=alone)
        if isinstance(rule, LiveUpdate) and alone:
            rule.over_ranks = partial(ranks.mean, names=[*self.trained])
        elif len(self.trained) < len(self.workspace.params):  # torch's waits for the gradients of all
            self._averages = partial(averaged, ranks, self.trained)
        else:
            trains = self._compiled.get(True, self._run)
            self._compiled[True] = Distributed(trains, self._model, ranks, parallel)

    def weigh(self, output: StepOutput[Any], batch: Batch, part: Part[Any], *, train: bool) -> Weighed:
        """Return what this rank's part of a batch weighs, and remember it for the backward pass."""
        assert self.shares is not None
        weight = weight_of(output, batch, self.task, checked=self.supervised, is_part=True)
        self.weighed = self.shares.weigh(weight, part, train=train)
        if train:
            self.shares.protect(output)
        if not self.weighed.total and not self.supervised:
            raise no_weight(self.task)
        return self.weighed

    def scaled_loss(self, loss: Tensor) -> Tensor:
        """Return the loss to go backward from: as the rule has it, of this rank's share."""
        loss = loss if self.scaled is None else self.scaled(loss)
        return loss if self.shares is None else self.shares.loss(loss)

    def meet(self) -> None:
        """Finish a pass of training as all ranks do: gradients are means over them, and buffers are those of rank 0."""
        if self._averages is not None:
            self._averages()
        if self.workspace.buffers and self.workspace.shared is not None:
            # torch has them follow rank 0 before the next forward pass; here the state has them already.
            self.workspace.shared([*self.workspace.buffers.values()])

    def begin(self, *, train: bool) -> None:
        """Set the module's mode."""
        if self._training is not train or self.workspace.module.training is not train:
            if train:
                self.workspace.check_trainable()
            self.workspace.switch(train=train)
            self._training = train
            self.looks = not self._watched.get(train, False)

    def _compile(
        self, options: CompileOptions, tell: Callable[[Note], None], *, alone: bool
    ) -> dict[bool, Called[Batch]]:
        """Return the task compiled for eval and, with the gradients where they can be made with it, for training."""
        workspace, trained = self.workspace, [*self.trained.values()]
        cast_in = partial(autocasting, precision=workspace.precision, device=workspace.device)
        apart = (
            self.scaled is not None
            or self.carries is not None
            or not alone
            or reuses_memory(options, workspace.device)
            or workspace.has_backward_hooks()
        )

        def plain(forward: Forward) -> Forward:
            return cast_in(compiled(forward, options))

        def fused(forward: Forward) -> Forward:
            self._fused = Fused(cast_in(forward), trained, options, tell)
            return self._fused

        task = self.task
        return {
            train: task.compiled(self._model, compiles)
            if isinstance(task, (Supervised, Carried))
            else compiles(_inlined(cast(Called[Batch], task)))
            for train, compiles in ((False, plain), (True, plain if apart else fused))
        }

    def rehearse(self, batch: Batch, *, train: bool, kept: Memory = None) -> None:
        """Run a compiled task uncompiled, refuse what a first pass is refused for, and leave no trace.

        What is compiled cannot be looked into. What is compiled with its gradients is tried out then.
        """
        if not self._compiled:
            return

        def look(run: Called[Batch]) -> None:
            with torch.set_grad_enabled(train):
                self.evaluate(batch, train=train, kept=kept, run=run)

        with restoring_rng(self.workspace.generators):
            self.workspace.rehearse(partial(look, self._run), train=train)
            if train and self._fused is not None:
                rehearsed = partial(self.workspace.rehearse, partial(look, self._compiled[True]), train=True)
                self._fused.try_out(rehearsed)

    def evaluate(
        self,
        batch: Batch,
        *,
        train: bool,
        kept: Memory = None,
        again: bool = False,
        run: Called[Batch] | None = None,
    ) -> StepOutput[Any]:
        """Return what the task makes of a batch; of a first pass, refuse what uses weights outside the state.

        `kept` is what the batch before handed on to it. Where the pass is compiled with its gradients, the parameters
        have them then, and the loss has no graph. A further part of a batch is not looked at `again`. `run` stands for
        the task, as it is or compiled; by default as the engine has it.
        """
        if run is None:
            run = self._compiled.get(train, self._run)
        batch = to_be_changed(batch)
        given: tuple[Any, ...] = (self._model, batch) if kept is None else (self._model, batch, kept)
        looks = self.looks and run is self._run and not again
        try:
            if looks:
                with self._outside.watched():
                    found = run(*given)
            else:
                found = run(*given)
        except Exception as error:
            if not self.supervised:  # the original's says more
                said = f"{source_of(self.task)}, called with (model, batch); the batch is {described(batch):.200}"
                said += f"; the batch before handed on {described(kept):.200}" if kept is not None else ""
                add_note(error, f"nntrain: raised by {said}")
            raise
        graph = train and not (
            self._fused is not None and any(param.grad is not None for param in self.trained.values())
        )
        output = check_output(found, self.task, train=graph)
        if looks and train and output.loss is not None:
            self._outside.check_graph(output.loss)
            left = [name for name, param in self.workspace.params.items() if param.grad is not None]
            if left:
                raise LossError(
                    f"{source_of(self.task)} left gradients of {', '.join(left):.200}, to which those of the loss "
                    f"would be added. Return the loss, and let the learner call backward; for gradients of your own "
                    f"take torch.autograd.grad, which leaves none."
                )
        return output

    def check_gradients(self) -> None:
        """Raise `LossError` where a pass gave no gradient to any parameter that its rule trains."""
        if not any(param.grad is not None for param in self.trained.values()):
            raise LossError(
                f"The loss that {source_of(self.task)} returned depends on none of the parameters that it is to train: "
                f"{', '.join(self.trained):.200}. Compute it from what these make (no .detach() on the way)."
            )

    def remember(self, weighted: WeightedSums, output: StepOutput[Any], *, counts: bool = True) -> Mapping[str, Memory]:
        """Return what the metrics of a whole phase remember with a batch more; to be called before `measure`.

        One that does not count stands for none, as where this rank has no part of it.
        """
        if self.remembers is None:
            return {}
        if not counts:
            return weighted.memory or self.remembers.init()
        if self.looks:
            with self._outside.watched(), _unwritten(output, f"update of one of {', '.join(self.remembers.whole)}"):
                return self.remembers.update(weighted.memory, output)
        return self.remembers.update(weighted.memory, output)

    def measure(self, output: StepOutput[Any], batch: Batch, said: Weight | None) -> dict[str, Tensor | float]:
        """Return each part of a batch's loss, and each metric. `said` is the weight as the task gave it, if it did."""
        if self.looks:
            found: dict[str, Tensor | float] = {}
            for name, metric in self._metrics.items():
                with self._outside.watched(), _unwritten(output, name):
                    found |= measure({name: metric}, output.preds, output.target)
            self._look_at(batch, output, said)
            self.looked()
        else:
            found = measure(self._metrics, output.preds, output.target) if self._metrics else {}
        return {**output.parts, **found} if output.parts else found

    def looked(self) -> None:
        """End the look at a first pass."""
        if self.looks:
            self._watched[self._training is True] = True
            self.looks = False

    def _look_at(self, batch: Batch, output: StepOutput[Any], said: Weight | None) -> None:
        """Refuse parts that are named as metrics are; warn, once, where the samples of a batch are not clear."""
        twice = [name for name in output.parts if name in self._metric_names]
        if twice:
            raise LossError(
                f"{source_of(self.task)} named a part {twice[0]!r}, and so is a metric. Give one of them another name."
            )
        if not self._warned:
            with restoring_rng(self.workspace.generators):
                if isinstance(self.task, Supervised):
                    odd = self.task.odd_batch(to_be_changed(batch), output.weight)
                else:
                    odd = odd_output(output, batch) if said is None else None
            if odd is not None:
                self._warned = True
                self._warn(odd)


@contextmanager
def _unwritten(output: StepOutput[Any], metric: str) -> Iterator[None]:
    """Raise `MetricError` where a metric writes, in a block, to the predictions or the target."""
    given = {"predictions": output.preds, "target": output.target}
    before = {name: [one._version for one in tensors_of(part)] for name, part in given.items()}
    yield
    for name, part in given.items():
        if before[name] != [one._version for one in tensors_of(part)]:
            raise MetricError(
                f"metric {metric} writes to the {name}, which the other metrics and subscribers are given too, and of "
                f"the data there may be no other. Make new tensors: preds.sigmoid(), and not preds.sigmoid_()."
            )


def _inlined(task: Called[Batch]) -> Called[Batch]:
    """Return a task as a plain function, which `torch.compile` sees through: what it calls of the model, too."""

    def run(model: nn.Module, batch: Batch) -> StepOutput[Any]:
        return task(model, batch)

    return run
