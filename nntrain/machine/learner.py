"""The learner: what never changes in a training, and its friendly front."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Final, Generic, Never, TypedDict, Unpack, cast, overload

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from nntrain.data.loaders import (
    TrainValid,
    as_loader,
    check_data,
    description_of,
    eval_sets,
    on_device,
    sizes_of,
    sources,
)
from nntrain.data.stream import Stream
from nntrain.errors import ConfigError, ConfigWarning
from nntrain.live.compiled import compile_options
from nntrain.live.determinism import check_deterministic
from nntrain.live.eager import Eager
from nntrain.live.engine import Engine, Pass
from nntrain.live.halving import Halving
from nntrain.live.objective import Objective, check_objectives, task_of
from nntrain.live.precision import slow_precision
from nntrain.live.recorded import recorded
from nntrain.live.workspace import Workspace
from nntrain.machine.folding import check_epochs, check_goal, fold, with_goal
from nntrain.machine.machine import Machine, ordinary_tensors
from nntrain.machine.shares import Sharing
from nntrain.metrics.measured import AnyMetric, named_metrics
from nntrain.metrics.monitors import Monitoring, Monitors, check_monitors
from nntrain.metrics.phase import PhaseMetrics
from nntrain.ranks.comparing import check_same, source_digest
from nntrain.ranks.options import Sharded, as_parallel
from nntrain.ranks.pulse import Pulse
from nntrain.ranks.ranks import Ranks, ranks_for
from nntrain.ranks.sharding import ShardedModule
from nntrain.ranks.world import local_device
from nntrain.sinks.interest import Sink, check_sink, interest_of, sink_name
from nntrain.sinks.news import News
from nntrain.sinks.print_stats import PrintStats
from nntrain.sinks.progress_bar import ProgressBar
from nntrain.sinks.transition import RunInfo
from nntrain.subscribers.asking import listeners, subscriber_name
from nntrain.subscribers.protocol import Listening
from nntrain.task.supervised import LossFn, Supervised, Unpacked, unpacked
from nntrain.task.task import Task, check_task, source_of
from nntrain.update.chaining import left_still, optimizer_of, scaling_loss
from nntrain.update.live_update import LiveUpdate
from nntrain.update.rule import UpdateRule
from nntrain.update.schedules import Schedule, check_lr
from nntrain.update.torch_optimizer import OptimizerFactory, check_optim_class
from nntrain.update.torch_rule import group_lrs_at, optimizer
from nntrain.values.calls import function_name
from nntrain.values.key import Key
from nntrain.values.log_event import Note
from nntrain.values.modules import check_model
from nntrain.values.progress import Progress
from nntrain.values.record import FrozenMapping
from nntrain.values.state import TrainState
from nntrain.values.tensors import ModelSource, Spec, spec_of
from nntrain.values.verdicts import Outcome

Batch = TypeVar("Batch")
Preds_co = TypeVar("Preds_co", covariant=True, default=Any)
Given = TypeVar("Given")
Preds = TypeVar("Preds")

_PACKAGE: Final = Path(__file__).parents[1]
_OF_ENGINE: Final = ("device", "compile", "capture")
"""What of an engine may be given by itself."""
_FACTORY = 4  # what the key is folded with for the weights that a model factory draws


class Changes(TypedDict, Generic[Batch], total=False):
    """The arguments of a `Learner`, each of which `replace` may change."""

    model: ModelSource
    dls: TrainValid[Batch]
    loss_fn: LossFn
    metric_fn: AnyMetric | Mapping[str, AnyMetric]
    optim_class: OptimizerFactory
    lr: float | Schedule
    subs: Sequence[Listening[Batch, Any]]
    sinks: Sequence[Sink]
    device: torch.device | str | None
    unpack: Callable[[Batch], Unpacked]
    weigh: Callable[[Batch], int | Tensor] | None
    compile: bool | Mapping[str, object]
    capture: bool
    engine: Engine | None
    task: Task[Batch, object] | None
    update: UpdateRule | None
    objectives: Sequence[Objective] | None


@dataclass(frozen=True, eq=True, repr=False)
class Learner(Generic[Batch, Preds_co]):
    """All that never changes in a training. Immutable; `replace` makes another.

    Args:
        model: a module, which is copied and never touched, or a function of no arguments that makes one.
        dls: the batches: `DataLoaders`, or anything with `.train` and `.valid`.
        loss_fn: (preds, target) to a 0-dim tensor, the mean over the batch's samples.
        metric_fn: a mapping of names to functions of (preds, target) that give one number, like `{"accuracy":
            accuracy}`, of which a phase has the mean, or to a `Metric`, which is of the whole phase. One alone is named
            "metric".
        optim_class: anything that makes an optimizer from parameters and `lr`: `torch.optim.SGD`, a partial ...
        lr: the learning rate, or a function of the step (0, 1, ...) that gives it.
        subs: the subscribers, asked by `order`, then as listed.
        sinks: the sinks, told of each transition.
        unpack: tells a batch's inputs from its target: batch to (positional inputs, keyword inputs, target).
        weigh: tells how much a batch weighs in the means of its phase: an int, or a 0-dim tensor, which may be on a
            device and is then read once, at the phase's end. By default it is its samples: the first dimension of the
            target or, where that has none, of the batch's first tensor.
        engine: how batches are run: `Engine(device="cuda", compile=True)`. `device`, `compile` and `capture` are its
            arguments, and may be given by themselves.
        task: what a batch means, and `update` what its gradients become, in place of a loss and an optimizer; or
            `objectives`, several such pairs: that is `Learner.of`.

    Raises `ConfigError` or `SubscriberError` for arguments that cannot be meant, before anything runs.
    """

    model: ModelSource
    dls: TrainValid[Batch]
    loss_fn: LossFn
    metric_fn: AnyMetric | Mapping[str, AnyMetric]
    optim_class: OptimizerFactory
    lr: float | Schedule
    subs: Sequence[Listening[Batch, Any]] = ()
    sinks: Sequence[Sink] = field(default=(), kw_only=True)
    device: torch.device | str | None = field(default=None, kw_only=True)
    unpack: Callable[[Batch], Unpacked] = field(default=unpacked, kw_only=True)
    weigh: Callable[[Batch], int | Tensor] | None = field(default=None, kw_only=True)
    compile: bool | Mapping[str, object] = field(default=False, kw_only=True)
    capture: bool = field(default=False, kw_only=True)
    engine: Engine | None = field(default=None, kw_only=True)
    task: Task[Batch, Preds_co] | None = field(default=None, kw_only=True)
    update: UpdateRule | None = field(default=None, kw_only=True)
    objectives: Sequence[Objective] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check every argument, and make sequences into tuples."""
        check_model(self.model)
        check_data(self.dls)
        self._check_twice()
        if self.objectives is not None:
            object.__setattr__(self, "objectives", check_objectives(self.objectives))
        elif self.update is None:
            check_optim_class(self.optim_class)
            check_lr(self.lr)
        parts = self._parts.values()
        for task, update in parts if self.objectives is None else ():
            if not isinstance(task, Supervised):
                check_task(task)
            optimizer_of(update)
        metrics = self._metrics
        if isinstance(self.metric_fn, Mapping):
            object.__setattr__(self, "metric_fn", FrozenMapping(self.metric_fn))
        for name in ("subs", "sinks"):
            given = getattr(self, name)
            if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
                raise ConfigError(f"{name} is {given!r:.80}; expected a list, like {name}=[...].")
            object.__setattr__(self, name, tuple(given))
        listeners(self.subs)
        for sink in self.sinks:
            check_sink(sink)
        named = self.metric_fn if self.task is None else metrics
        # The parts of another task's loss are known when it has run.
        known = self.objectives is None and all(isinstance(task, Supervised) for task, _ in parts)
        check_monitors(self._monitors, named if known else None, tuple(eval_sets(self.dls.valid)))

    def _check_twice(self) -> None:
        """Raise `ConfigError` where a thing is said in two ways; say in all of them how batches are run."""
        engine = Engine(self.device, self.compile, self.capture)
        if self.engine is not None:
            if not isinstance(self.engine, Engine):
                raise ConfigError(f"engine is {self.engine!r:.80}; expected one like Engine(device='cuda').")
            same = all(getattr(self.engine, name) == getattr(engine, name) for name in _OF_ENGINE)
            if engine != Engine() and not same:
                raise ConfigError(f"{engine} is given beside {self.engine}; say it in one of the two.")
            engine = self.engine
        object.__setattr__(self, "engine", engine)
        for name in _OF_ENGINE:
            object.__setattr__(self, name, getattr(engine, name))
        loss, rate = ("loss_fn", "unpack", "weigh"), ("optim_class", "lr")
        said_by = {"task": loss, "update": rate, "objectives": (*loss, *rate, "task", "update")}
        for part, names in said_by.items():
            said = [name for name in names if getattr(self, name) is not _UNSAID[name]]
            if said and getattr(self, part) is not None:
                raise ConfigError(
                    f"{', '.join(said)} is given beside {part}, which says that already. Change that: "
                    f"replace({part}=...)."
                )

    @overload
    @classmethod
    def of(
        cls,
        model: ModelSource,
        dls: TrainValid[Given],
        task: Task[Given, Preds],
        update: UpdateRule,
        *,
        metrics: Mapping[str, AnyMetric] = ...,
        subs: Sequence[Listening[Given, Preds]] = ...,
        sinks: Sequence[Sink] = ...,
        engine: Engine = ...,
    ) -> Learner[Given, Preds]: ...
    @overload
    @classmethod
    def of(
        cls,
        model: ModelSource,
        dls: TrainValid[Given],
        *,
        objectives: Sequence[Objective],
        metrics: Mapping[str, AnyMetric] = ...,
        subs: Sequence[Listening[Given, Never]] = ...,
        sinks: Sequence[Sink] = ...,
        engine: Engine = ...,
    ) -> Learner[Given]: ...
    @classmethod
    def of(
        cls,
        model: ModelSource,
        dls: TrainValid[Given],
        task: Task[Given, Preds] | None = None,
        update: UpdateRule | None = None,
        *,
        objectives: Sequence[Objective] | None = None,
        metrics: Mapping[str, AnyMetric] | None = None,
        subs: Sequence[Listening[Given, Preds]] = (),
        sinks: Sequence[Sink] = (),
        engine: Engine | None = None,
    ) -> Learner[Given, Preds]:
        """Return a learner of a task and an update rule of your own.

        Args:
            model: as `Learner` takes it.
            dls: as `Learner` takes it.
            task: what a batch means: a function of (model, batch) that returns a `StepOutput`.
            update: what gradients become: a rule of `nntrain.update`, like `optimizer(torch.optim.AdamW, lr=1e-3)`.
            objectives: several tasks, each with a rule over parameters of its own, in place of `task` and `update`.
            metrics: names to functions of (preds, target), means over the weight, or to `Metric`s. With objectives,
                predictions and targets are mappings by the objectives' names.
            subs: the subscribers.
            sinks: the sinks.
            engine: how batches are run.

        Raises `ConfigError` or `SubscriberError` for arguments that cannot be meant, before anything runs.
        """
        if objectives is None and (task is None or update is None):
            raise ConfigError(
                f"{'task' if task is None else 'update'} is None; Learner.of needs a task and an update rule, or "
                f"objectives=[Objective(name, task, update), ...]."
            )
        made: Any = cls
        learner: Learner[Given, Preds] = made(
            model,
            dls,
            _UNSAID["loss_fn"],
            {} if metrics is None else metrics,
            _UNSAID["optim_class"],
            _UNSAID["lr"],
            subs,
            sinks=sinks,
            engine=engine,
            task=task,
            update=update,
            objectives=objectives,
        )
        return learner

    @property
    def _parts(self) -> dict[str, tuple[Task[Batch, Any], UpdateRule]]:
        """The tasks with their rules, by the objectives' names; without objectives there is one, without a name."""
        if self.objectives is not None:
            return {one.name: (cast(Task[Batch, Any], one.task), one.update) for one in self.objectives}
        task = self.task or Supervised(self.loss_fn, self.metric_fn, self.unpack, self.weigh)
        return {"": (task, self.update or optimizer(self.optim_class, lr=self.lr))}

    @property
    def _said(self) -> dict[str, str]:
        """The tasks with their rules, in words, by the objectives' names."""
        return {
            name: f"{source_of(task).removeprefix('task ')}, {update!r}" for name, (task, update) in self._parts.items()
        }

    @property
    def _metrics(self) -> Mapping[str, AnyMetric]:
        """The metrics by name: those of the task, and the learner's own."""
        own = named_metrics(self.metric_fn)
        return {**named_metrics(self.task.metric_fn), **own} if isinstance(self.task, Supervised) else own

    @property
    def _monitors(self) -> tuple[Monitoring, ...]:
        """Which values subscribers and sinks read of the phases' statistics."""
        read = [(subscriber_name(one), getattr(one, "monitors", ())) for one in self.subs]
        read += [(sink_name(sink), interest_of(sink).monitors) for sink in self.sinks]
        return tuple((who, name) for who, given in read for name in ((given,) if isinstance(given, str) else given))

    def __repr__(self) -> str:
        config = self._config
        if self.objectives is not None or self.task is not None:
            said = [f"{name}: {said}" if name else said for name, said in self._said.items()]
            return f"Learner.of({config['model']}, {', '.join(said)}, subs={config['subscribers']})"
        lr = config["lr_schedule"] if callable(self.lr) else config["lr"]
        return (
            f"Learner({config['model']}, {config['loss_fn']}, {config['optimizer']}, lr={lr}, "
            f"subs={config['subscribers']})"
        )

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy is made of: the arguments, and no workspace."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}

    @property
    def machine(self) -> Machine[Batch]:
        """The machine that steps this learner's states, with its workspace. Made when first needed."""
        return self._machine(0)

    def _machine(self, bits: int) -> Machine[Batch]:
        made: Machine[Batch] | None = self.__dict__.get("_made")
        if made is None:
            made = self.__dict__["_made"] = self._make_machine(bits)
        return made

    def _make_machine(self, bits: int) -> Machine[Batch]:
        device = None if self.device is None else torch.device(self.device)
        options = compile_options(self.compile)
        engine = self.engine or Engine()
        parallel, ranks = as_parallel(engine.parallel), None
        if parallel is not None:
            device = local_device() if device == torch.device("cuda") else device
            ranks = ranks_for(device or torch.device("cpu"), parallel.timeout)
        with ordinary_tensors():
            rules = {name: update for name, (_, update) in self._parts.items()}
            written = rules if engine.precision != "fp16" else {name: scaling_loss(one) for name, one in rules.items()}
            update = written if self.objectives is not None else written[""]
            shards = parallel if isinstance(parallel, Sharded) and ranks is not None else None
            workspace = Workspace(
                self.model,
                update,
                device,
                bits=bits,
                compile_options=options,
                precision=engine.precision,
                shard=None if shards is None else partial(self._sharded, shards),
            )
        check_deterministic(workspace.device, wanted=engine.deterministic)
        if ranks is not None:
            _check_parallel(workspace, ranks)
            workspace.shared = ranks.copied_from_first
        news = News()
        slow = slow_precision(engine.precision, workspace.device)
        if slow is not None:
            news.warn(Note("precision.slow", slow), ConfigWarning)
        for text in (one for rule in rules.values() for one in left_still(rule)):
            news.warn(Note("schedule.momentum", text), ConfigWarning)
        metrics = PhaseMetrics(self._metrics, workspace.device)
        passes = {
            name: Pass(
                workspace,
                task,
                metrics,
                options,
                warn=news.warn,
                tell=news.notes.append,
                name=name,
                ranks=ranks,
                parallel=parallel,
            )
            for name, (task, _) in self._parts.items()
        }
        eager = Eager(passes, options, self._halving(news) if engine.oom == "halve" else None)
        streams = {
            "train" if train else name: Stream(
                on_device(as_loader(items, where, news.notes.append), workspace.device), 0 if train else 1, where
            )
            for where, name, items, train in sources(self.dls)
        }
        data = {name or "eval": dict(description_of(stream.loader)) for name, stream in streams.items()}
        # Nothing of a machine refers to its learner: memory on a device is to be free when the learner is, not when
        # Python next looks for cycles.
        config = {**self._config, "data": data}
        if parallel is not None:
            config |= {"world_size": 1 if ranks is None else ranks.world.size}
        if ranks is not None and shards is None:
            check_same(self._of_all_ranks(workspace.spec))
        optimizers = {name: optimizer_of(rule) for name, rule in rules.items()}
        lr_at = next(iter(optimizers.values())).lr_at
        rule = workspace.optimizer
        alone = ranks is not None and shards is None and isinstance(rule, LiveUpdate) and rule.accumulates_alone
        pulse, sharing = None if ranks is None else Pulse(ranks), Sharing(ranks, metrics, alone=alone)
        told = partial(
            RunInfo,
            repr(self),
            config,
            str(workspace.device),
            lr_at,
            news.queued_events.append,
            group_lrs_at=partial(group_lrs_at, optimizers),
            first_rank=sharing.first,
            whole=sharing.whole,
            clock=time.monotonic if pulse is None else pulse.clock,
        )
        return Machine(
            workspace=workspace,
            streams=streams,
            task=self._parts[""][0] if self.objectives is None else task_of(self.objectives),
            engine=recorded(passes, eager, news.notes.append) if self.capture else eager,
            metrics=metrics,
            heard_by=listeners(self.subs),
            sinks=tuple(self.sinks),
            monitors=Monitors(self._monitors, tuple(name for name in streams if name != "train"), metrics.whole),
            info=lru_cache(maxsize=None)(told),
            news=news,
            float32_matmul=engine.float32_matmul,
            deterministic=engine.deterministic,
            compiles=options is not None,
            ranks=ranks,
            parallel=parallel is not None,
            pulse=pulse,
            sharing=sharing,
        )

    def _halving(self, news: News) -> Callable[..., Halving[Batch]]:
        """Return what makes the division of batches that do not fit in memory."""
        if self.objectives is not None:
            raise ConfigError(
                "oom='halve' passes a batch again, and of several objectives the first have written by then. Leave oom "
                "out, and take smaller batches."
            )
        return partial(Halving, tell=news.notes.append, warn=partial(news.warn, kind=ConfigWarning))

    def init(self, seed: int = 0, epochs: int = 0) -> TrainState:
        """Return the state before any training: the model's own weights, a fresh optimizer, a key of `seed`.

        The seed rules everything random from here on. `epochs` is a goal for those who fold `advance` themselves.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise ConfigError(f"seed is {seed!r}; expected a whole number from 0 up to 2**63 - 1.")
        check_epochs(epochs)
        key = Key(seed=seed)
        bits = key.derived(_FACTORY)
        machine = self._machine(bits)
        with machine.turn.taken(), ordinary_tensors():
            tensors = machine.workspace.fresh(bits)
        return TrainState(progress=Progress(epochs=epochs), tensors=tensors, key=key)

    def fit(
        self, epochs: int | None = None, seed: int = 0, *, steps: int | None = None, print_stats: bool = True
    ) -> Outcome:
        """Train `epochs` epochs, or `steps` optimizer steps, from a fresh state; print a line for each phase.

        At a terminal or in Jupyter a progress bar is below the lines. With `print_stats=False` it prints nothing, and
        draws no bar. With `steps` the last train phase is cut at the goal, and has its statistics and its eval. Raises
        `ConfigError` for a goal that cannot be meant, for both and for neither. Raises what the caller's code raises,
        with a note that says where; `nntrain.state_before(error)` then gives the training as it stood before.
        """
        own: tuple[Sink, ...] = (ProgressBar(), PrintStats()) if print_stats else ()
        check_goal(epochs, steps)
        cell = [with_goal(self.init(seed), epochs, steps)]
        return fold(
            self,
            cell,
            lambda step: step.state.progress.at == "finished",
            sinks=tuple(one for one in own if not any(isinstance(sink, type(one)) for sink in self.sinks)),
        )

    def replace(self, **changes: Unpack[Changes[Batch]]) -> Learner[Batch, Preds_co]:
        """Make a learner with some arguments changed, and a workspace of its own."""
        names = {one.name for one in dataclasses.fields(self)}
        unknown = [name for name in changes if name not in names]
        if unknown:
            hint = " Its metrics are metric_fn={...}." if "metrics" in unknown else ""
            raise ConfigError(f"A Learner has no {', '.join(unknown)}; it has {', '.join(sorted(names))}.{hint}")
        given: dict[str, Any] = dict(changes)
        if "engine" not in given:
            of_engine = {name: given.pop(name) for name in _OF_ENGINE if name in given}
            given["engine"] = dataclasses.replace(self.engine or Engine(), **of_engine)
        given = {"device": None, "compile": False, "capture": False, **given}
        return dataclasses.replace(self, **given)

    def _sharded(self, options: Sharded, module: nn.Module, device: torch.device) -> ShardedModule:
        """Return a module sharded, once all ranks were seen to have the same: it takes all of them to shard it."""
        check_same(self._of_all_ranks(spec_of(dict(module.named_parameters()), dict(module.named_buffers()), device)))
        return ShardedModule(options, module, device)

    def _of_all_ranks(self, spec: Spec) -> dict[str, str]:
        """Return what must be the same on all ranks, by name. Sinks need not: one rank may write for all."""
        settings = {f"setting {name}": repr(one) for name, one in self._config.items() if name != "sinks"}
        shapes = {name: repr(one) for name, one in {**spec.params, **spec.buffers}.items()}
        return {**settings, **shapes, "learner": repr(self), "code of nntrain": source_digest(_PACKAGE)}

    @cached_property
    def _config(self) -> dict[str, object]:
        model = self.model
        name = type(model).__name__ if isinstance(model, nn.Module) else function_name(model)
        config: dict[str, object] = {"model": name}
        if isinstance(model, nn.Module):
            params = list(model.parameters())
            config["parameters"] = sum(param.numel() for param in params)
            config["trainable_parameters"] = sum(param.numel() for param in params if param.requires_grad)
        task, rule = next(iter(self._parts.values()))
        made = [optimizer_of(update) for _, update in self._parts.values()]
        lr = made[0].hyperparameters.get("lr")
        config |= {
            **(
                {"objectives": self._said}
                if self.objectives is not None
                else {"loss_fn": function_name(self.loss_fn)}
                if self.task is None
                else {"task": source_of(task).removeprefix("task ")}
            ),
            "metrics": list(self._metrics),
            "optimizer": ", ".join(function_name(one.optim_class) for one in made),
            "compile": compile_options(self.compile) is not None,
            "compile_options": dict(self.compile) if isinstance(self.compile, Mapping) else {},
            "capture": self.capture,
            "precision": "fp32" if self.engine is None else self.engine.precision,
            "lr": made[0].lr_at(0),
            "lr_schedule": function_name(lr) if callable(lr) else "constant",
            **({"update": repr(rule)} if self.update is not None else {}),
            "subscribers": [subscriber_name(subscriber) for subscriber in self.subs],
            "sinks": [sink_name(sink) for sink in self.sinks],
        }
        for where, name, items, train in sources(self.dls):
            of = "train" if train else f"valid/{name}" if name else "valid"
            config |= {f"{of}_{what}": count for what, count in sizes_of(items, where).items()}
        return config


def _check_parallel(workspace: Workspace, ranks: Ranks) -> None:
    """Raise `ConfigError` for an optimizer that decides by each rank's own loss how often it evaluates the model."""
    if workspace.needs_closure and not workspace.optimizer.evaluates_apart:
        raise ConfigError(
            f"{workspace.optimizer.kind} evaluates the model as often as its loss asks for, and each of the "
            f"{ranks.world.size} ranks has but the loss of its own rows. Take an optimizer without a closure, or train "
            f"on one process."
        )


def _no_loss(*_: object) -> Tensor:
    """Stand for the loss function of a learner whose task has the loss."""
    raise ConfigError("This learner has a task, and no loss_fn.")


def _no_optimizer(*_: object, **named: object) -> torch.optim.Optimizer:
    """Stand for the optimizer of a learner that has an update rule."""
    raise ConfigError(f"This learner has an update rule, and no optim_class (with {', '.join(named)}).")


_UNSAID: Final[Mapping[str, Any]] = {
    "loss_fn": _no_loss,
    "unpack": unpacked,
    "weigh": None,
    "optim_class": _no_optimizer,
    "lr": 0.0,
    "task": None,
    "update": None,
}
"""What stands in the place of what a task or an update rule says."""
