"""The learner: what never changes in a training, and its friendly front."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Generic, TypedDict, TypeVar, Unpack

import torch
from torch import Tensor, nn

from nntrain.data.loaders import TrainValid, as_loader, check_data, description_of, on_device, sizes_of
from nntrain.data.stream import Stream
from nntrain.errors import ConfigError
from nntrain.live.compiled import compile_options
from nntrain.live.eager import Eager
from nntrain.live.engine import Pass
from nntrain.live.recorded import recorded
from nntrain.live.workspace import Workspace, as_device
from nntrain.machine.machine import Machine, ordinary_tensors
from nntrain.machine.steps import check_epochs, fold, with_goal
from nntrain.metrics.measured import MetricLike, check_monitors, named_metrics
from nntrain.metrics.phase import PhaseMetrics
from nntrain.sinks.interest import Sink, check_sink, interest_of, sink_name
from nntrain.sinks.news import News
from nntrain.sinks.print_stats import PrintStats
from nntrain.sinks.transition import RunInfo
from nntrain.subscribers.asking import listeners, subscriber_name
from nntrain.subscribers.protocol import Listening
from nntrain.task.supervised import LossFn, Supervised, Unpacked, check_loss_fn, unpacked
from nntrain.update.optimizer import OptimizerFactory, check_optim_class
from nntrain.update.schedules import Schedule, check_lr
from nntrain.values.calls import call_problem, function_name
from nntrain.values.key import Key
from nntrain.values.modules import check_model
from nntrain.values.progress import Phase, Progress
from nntrain.values.record import FrozenMapping
from nntrain.values.state import TrainState
from nntrain.values.tensors import ModelSource
from nntrain.values.verdicts import Outcome

Batch = TypeVar("Batch")

_FACTORY = 4  # what the key is folded with for the weights that a model factory draws


class Changes(TypedDict, Generic[Batch], total=False):
    """The arguments of a `Learner`, each of which `replace` may change."""

    model: ModelSource
    dls: TrainValid[Batch]
    loss_fn: LossFn
    metric_fn: MetricLike | Mapping[str, MetricLike]
    optim_class: OptimizerFactory
    lr: float | Schedule
    subs: Sequence[Listening[Batch]]
    sinks: Sequence[Sink]
    device: torch.device | str | None
    unpack: Callable[[Batch], Unpacked]
    weigh: Callable[[Batch], int | Tensor] | None
    compile: bool | Mapping[str, object]
    capture: bool


@dataclass(frozen=True, eq=True, repr=False)
class Learner(Generic[Batch]):
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
        device: where to train; by default where the model is.
        unpack: tells a batch's inputs from its target: batch to (positional inputs, keyword inputs, target).
        weigh: tells how much a batch weighs in the means of its phase: an int, or a 0-dim tensor, which may be on a
            device and is then read once, at the phase's end. By default it is its samples: the first dimension of the
            target or, where that has none, of the batch's first tensor.
        compile: whether `torch.compile` is to compile the model with the loss, and the optimizer's step; or its
            options, like `{"mode": "max-autotune"}`.
        capture: whether to record each shape of batch once as CUDA graphs, and then launch these. What cannot be
            recorded, and everything on a CPU, runs plainly; the log says so.

    Raises `ConfigError` or `SubscriberError` for arguments that cannot be meant, before anything runs.
    """

    model: ModelSource
    dls: TrainValid[Batch]
    loss_fn: LossFn
    metric_fn: MetricLike | Mapping[str, MetricLike]
    optim_class: OptimizerFactory
    lr: float | Schedule
    subs: Sequence[Listening[Batch]] = ()
    sinks: Sequence[Sink] = field(default=(), kw_only=True)
    device: torch.device | str | None = field(default=None, kw_only=True)
    unpack: Callable[[Batch], Unpacked] = field(default=unpacked, kw_only=True)
    weigh: Callable[[Batch], int | Tensor] | None = field(default=None, kw_only=True)
    compile: bool | Mapping[str, object] = field(default=False, kw_only=True)
    capture: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Check every argument, and make sequences into tuples."""
        check_model(self.model)
        check_data(self.dls)
        check_loss_fn(self.loss_fn)
        check_optim_class(self.optim_class)
        for name, given in (("unpack", self.unpack), ("weigh", self.weigh)):
            problem = None if given is None else call_problem(given, "batch")
            if problem is not None:
                raise ConfigError(f"{name} is {given!r:.80}; expected a function of the batch: {problem}.")
        named_metrics(self.metric_fn)
        if isinstance(self.metric_fn, Mapping):
            object.__setattr__(self, "metric_fn", FrozenMapping(self.metric_fn))
        check_lr(self.lr)
        compile_options(self.compile)
        if not isinstance(self.capture, bool):
            raise ConfigError(f"capture is {self.capture!r}; expected True or False.")
        if isinstance(self.compile, Mapping):
            object.__setattr__(self, "compile", FrozenMapping(self.compile))
        for name in ("subs", "sinks"):
            given = getattr(self, name)
            if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
                raise ConfigError(f"{name} is {given!r:.80}; expected a list, like {name}=[...].")
            object.__setattr__(self, name, tuple(given))
        listeners(self.subs)
        for sink in self.sinks:
            check_sink(sink)
        monitors = [(subscriber_name(one), getattr(one, "monitors", ())) for one in self.subs]
        monitors += [(sink_name(sink), interest_of(sink).monitors) for sink in self.sinks]
        check_monitors(monitors, self.metric_fn)
        object.__setattr__(self, "device", as_device(self.device))

    def __repr__(self) -> str:
        config = self._config
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
        with ordinary_tensors():
            workspace = Workspace(self.model, self.optim_class, self.lr, device, bits=bits, compile_options=options)
        news = News()
        metrics = PhaseMetrics(named_metrics(self.metric_fn), workspace.device)
        passing = Pass(workspace, Supervised(self.loss_fn, self.unpack, self.weigh, news.warn), metrics, options)
        eager = Eager(passing, options)
        streams: dict[Phase, Stream[Batch]] = {
            "train": Stream(on_device(as_loader(self.dls.train, "train", news.notes.append), workspace.device), 0),
            "eval": Stream(on_device(as_loader(self.dls.valid, "valid", news.notes.append), workspace.device), 1),
        }
        data = {phase: dict(description_of(stream.loader)) for phase, stream in streams.items()}
        # Nothing of a machine refers to its learner: memory on a device is to be free when the learner is, not when
        # Python next looks for cycles.
        lr_at = self.lr if callable(self.lr) else partial(_constant, float(self.lr))
        config = {**self._config, "data": data}
        told = partial(RunInfo, repr(self), config, str(workspace.device), lr_at, news.queued_events.append)
        return Machine(
            workspace=workspace,
            streams=streams,
            engine=recorded(passing, eager, news.notes.append) if self.capture else eager,
            metrics=metrics,
            heard_by=listeners(self.subs),
            sinks=tuple(self.sinks),
            info=lru_cache(maxsize=None)(told),
            news=news,
        )

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

    def fit(self, epochs: int, seed: int = 0, *, print_stats: bool = True) -> Outcome:
        """Train `epochs` epochs from a fresh state, and print a line for each phase unless told not to.

        Raises what the caller's code raises, with a note that says where; `nntrain.state_before(error)` then gives
        the training as it stood before.
        """
        printing = print_stats and not any(isinstance(sink, PrintStats) for sink in self.sinks)
        check_epochs(epochs)
        cell = [with_goal(self.init(seed), epochs)]
        return fold(
            self,
            cell,
            lambda step: step.state.progress.at == "finished",
            sinks=(PrintStats(),) if printing else (),
        )

    def replace(self, **changes: Unpack[Changes[Batch]]) -> Learner[Batch]:
        """Make a learner with some arguments changed, and a workspace of its own."""
        names = {one.name for one in dataclasses.fields(self)}
        unknown = [name for name in changes if name not in names]
        if unknown:
            raise ConfigError(f"A Learner has no {', '.join(unknown)}; it has {', '.join(sorted(names))}.")
        return dataclasses.replace(self, **changes)

    @cached_property
    def _config(self) -> dict[str, object]:
        model = self.model
        name = type(model).__name__ if isinstance(model, nn.Module) else function_name(model)
        config: dict[str, object] = {"model": name}
        if isinstance(model, nn.Module):
            params = list(model.parameters())
            config["parameters"] = sum(param.numel() for param in params)
            config["trainable_parameters"] = sum(param.numel() for param in params if param.requires_grad)
        config |= {
            "loss_fn": function_name(self.loss_fn),
            "metrics": list(named_metrics(self.metric_fn)),
            "optimizer": function_name(self.optim_class),
            "compile": compile_options(self.compile) is not None,
            "compile_options": dict(self.compile) if isinstance(self.compile, Mapping) else {},
            "capture": self.capture,
            "lr": float(self.lr(0) if callable(self.lr) else self.lr),
            "lr_schedule": function_name(self.lr) if callable(self.lr) else "constant",
            "subscribers": [subscriber_name(subscriber) for subscriber in self.subs],
            "sinks": [sink_name(sink) for sink in self.sinks],
        }
        for phase, batches in (("train", self.dls.train), ("valid", self.dls.valid)):
            config |= {f"{phase}_{name}": count for name, count in sizes_of(batches, phase).items()}
        return config


def _constant(lr: float, step: int) -> float:  # noqa: ARG001 - a schedule takes the step
    return lr
