"""Every built-in subscriber, sink, task, rule, metric and schedule keeps the laws of the kit, and none is left out."""

from __future__ import annotations

import importlib
import inspect
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import nntrain
from nntrain import (
    Checkpoint,
    EarlyStopping,
    NanGuard,
    PrintStats,
    ProgressBar,
    ReduceOnPlateau,
    Rollback,
    TimeLimit,
    accuracy,
    looking,
    metrics,
    schedules,
    sinks,
    subscribers,
    supervised,
    update,
)
from nntrain.log import JsonLog
from nntrain.looking import ActivationStats, ConfusionLog
from nntrain.metrics import Confusion, from_torchmetrics
from nntrain.schedules import cosine, one_cycle, one_cycle_momentum
from nntrain.sinks import Profiler, ThroughputLog
from nntrain.subscribers.protocol import EVENTS
from nntrain.testing import (
    Plan,
    check_metric,
    check_rule,
    check_schedule,
    check_sink,
    check_subscriber,
    check_task,
    small_learner,
)
from nntrain.update import (
    UpdateRule,
    accumulate,
    chain,
    clip_norm,
    clip_value,
    ema,
    freeze,
    gradient_noise,
    gradient_norms,
    layerwise,
    loss_scale,
    optimizer,
    sam,
    schedule_free,
    skip_nonfinite,
    swa,
)
from tests.sinks.terminals import Terminal

SUBSCRIBERS: Final[dict[str, Callable[[], Any]]] = {
    "EarlyStopping": lambda: EarlyStopping(patience=1),
    "NanGuard": NanGuard,
    "ReduceOnPlateau": lambda: ReduceOnPlateau(patience=1),
    "Rollback": lambda: Rollback(every=2, lr_factor=0.5, at_most=2),
    "TimeLimit": lambda: TimeLimit(1000),
    "ActivationStats": lambda: ActivationStats(every=2),
    "ConfusionLog": lambda: ConfusionLog("confusion"),
}


def confused(subs: Any) -> Any:
    """Give a learner with the metric that `ConfusionLog` logs."""
    return small_learner(Plan()).replace(metric_fn={"confusion": Confusion(3)}, subs=subs)


LEARNERS: Final = {"ConfusionLog": confused}
SINKS: Final[dict[str, Callable[[Path], Any]]] = {
    "Checkpoint": lambda folder: Checkpoint(fresh(folder), every_steps=2),
    "JsonLog": lambda folder: JsonLog(fresh(folder), every=1),
    "PrintStats": lambda folder: PrintStats(io.StringIO()),
    "Profiler": lambda folder: Profiler(fresh(folder), start=0, steps=1),
    "ProgressBar": lambda folder: ProgressBar(Terminal()),
    "ThroughputLog": lambda folder: ThroughputLog(every=2),
}
_SGD: Final = optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)
RULES: Final[dict[str, UpdateRule]] = {
    "accumulate": accumulate(2),
    "chain": chain(loss_scale(8.0), accumulate(2), clip_norm(1.0), _SGD, ema(0.9), swa(start=2)),
    "clip_norm": clip_norm(1.0),
    "clip_value": clip_value(0.5),
    "ema": chain(_SGD, ema(0.9, in_eval=True)),
    "freeze": freeze("0.*", until=2),
    "gradient_noise": gradient_noise(0.1),
    "gradient_norms": gradient_norms(),
    "layerwise": optimizer(torch.optim.AdamW, lr=0.1, groups=layerwise(["0.*", "2.*"], 0.1, 0.5)),
    "loss_scale": loss_scale(8.0, interval=2),
    "optimizer": optimizer(torch.optim.AdamW, lr=cosine(0.1, steps=9), weight_decay=lambda step: 0.1 / (1 + step)),
    "optimizer, of a closure": optimizer(torch.optim.LBFGS, lr=0.1, max_iter=2),
    "sam": chain(sam(0.05), _SGD),
    "schedule_free": schedule_free(optimizer(torch.optim.SGD, lr=0.1)),
    "skip_nonfinite": skip_nonfinite(),
    "swa": chain(_SGD, swa(start=2)),
}
SCHEDULES: Final[dict[str, tuple[Any, str]]] = {
    "constant": (schedules.constant(0.1), "lr"),
    "cosine": (cosine(0.1, steps=30, warmup_steps=5), "lr"),
    "cosine_restarts": (schedules.cosine_restarts(0.1, every=4, times=2), "lr"),
    "exponential": (schedules.exponential(0.1, gamma=0.9), "lr"),
    "from_torch": (schedules.from_torch(lambda optimizer: StepLR(optimizer, 3), lr=0.1), "lr"),
    "linear": (schedules.linear(0.1, steps=10, start=0.1, end=1.0), "lr"),
    "one_cycle": (one_cycle(0.1, steps=40), "lr"),
    "one_cycle_momentum": (one_cycle_momentum(steps=40), "momentum"),
    "polynomial": (schedules.polynomial(0.1, steps=20, power=2.0), "lr"),
    "sequence": (schedules.sequence([schedules.constant(0.1), cosine(0.1, steps=9)], at=[5]), "lr"),
    "step": (schedules.step(0.1, every=3, gamma=0.5), "lr"),
    "tuple_of": (schedules.tuple_of(one_cycle_momentum(steps=40), 0.999), "betas"),
    "warmup": (schedules.warmup(schedules.exponential(0.1, gamma=0.9), steps=4), "lr"),
    "warmup_stable_decay": (schedules.warmup_stable_decay(0.1, steps=40, warmup_steps=4, decay_steps=9), "lr"),
}


def _theirs() -> Any:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: nntrain[torchmetrics]")
    return from_torchmetrics(importlib.import_module("torchmetrics.classification").MulticlassF1Score(4))


METRICS: Final[dict[str, Callable[[], Any]]] = {
    "accuracy": lambda: accuracy,
    "Confusion": lambda: Confusion(4),
    "from_torchmetrics": _theirs,
}
TASKS: Final[dict[str, Any]] = {"supervised": supervised(nn.functional.cross_entropy, accuracy)}


def fresh(folder: Path) -> Path:
    """Give a folder that is not there yet."""
    return folder / str(len([*folder.iterdir()]))


@pytest.mark.parametrize("name", SUBSCRIBERS)
@pytest.mark.parametrize("examples", [1, pytest.param(6, marks=pytest.mark.sweep)])
def test_subscribers(name: str, examples: int, device: torch.device) -> None:
    if name in LEARNERS:
        check_subscriber(SUBSCRIBERS[name], learner=LEARNERS[name], examples=examples)
    else:
        check_subscriber(SUBSCRIBERS[name], examples=examples, device=device)


@pytest.mark.parametrize("make", SINKS.values(), ids=SINKS)
@pytest.mark.parametrize("examples", [2, pytest.param(6, marks=pytest.mark.sweep)])
def test_sinks(make: Callable[[Path], Any], examples: int, tmp_path: Path, device: torch.device) -> None:
    check_sink(lambda: make(tmp_path), examples=examples, device=device)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("examples", [2, pytest.param(15, marks=pytest.mark.sweep)])
def test_rules(rule: UpdateRule, examples: int, device: torch.device) -> None:
    check_rule(rule, examples=examples, device=device)


@pytest.mark.parametrize(("schedule", "hyperparameter"), SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("steps", [50, pytest.param(1000, marks=pytest.mark.sweep)])
def test_schedules(schedule: Any, hyperparameter: str, steps: int) -> None:
    check_schedule(schedule, hyperparameter=hyperparameter, steps=steps, examples=2)


@pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
def test_metrics(make: Callable[[], Any], device: torch.device) -> None:
    check_metric(make(), examples=5, device=device)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_tasks(task: Any, device: torch.device) -> None:
    check_task(task, examples=2, device=device)


def named(module: ModuleType, *others: str) -> set[str]:
    """Give the names of what a module has for users, but for `others`."""
    assert {*others} <= {*module.__all__}
    return {*module.__all__} - {*others}


def listening(module: ModuleType) -> set[str]:
    """Give the names of a module's classes that are asked at some event."""
    classes = {name: one for name in module.__all__ if inspect.isclass(one := getattr(module, name))}
    return {name for name, one in classes.items() if any(hasattr(one, event) for event in EVENTS)}


def tried(kinds: Mapping[str, object]) -> set[str]:
    return {name.partition(",")[0] for name in kinds}


def test_none_is_left_out() -> None:
    assert tried(SUBSCRIBERS) == {*named(subscribers), *listening(looking)}
    assert tried(RULES) == named(update, "At", "BoundRule", "Gradients", "UpdateRule")
    assert tried(SCHEDULES) == named(schedules, "Curve")
    assert tried(METRICS) == named(metrics, "Metric")
    assert tried(SINKS) >= named(sinks, "Interest")
    assert listening(nntrain) | listening(looking) == {*SUBSCRIBERS, "Subscriber"}
    assert {name for name in nntrain.__all__ if hasattr(getattr(nntrain, name), "interest")} <= {*SINKS}
