"""The metrics of one batch: functions of (preds, target), each checked to return a number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Never

from torch import Tensor

from nntrain.errors import ConfigError, MetricError, add_note
from nntrain.metrics.metric import WholePhaseMetric, is_metric
from nntrain.values.calls import call_problem, class_of_calls, function_name, remembers_calls
from nntrain.values.trees import described

MetricFn = Callable[[Never, Never], Tensor]
"""A function of (preds, target) to one number, a 0-dim tensor. A float will do at run time; it waits for the device."""

AnyMetric = MetricFn | WholePhaseMetric
"""What a name of a learner's metrics stands for: a mean over the samples, or something of a whole phase."""


def named_metrics(metric_fn: AnyMetric | Mapping[str, AnyMetric]) -> Mapping[str, AnyMetric]:
    """Return metrics by name; a single one is named "metric". Raises `ConfigError` for what is no metric."""
    if metric_fn is None or isinstance(metric_fn, (str, list, tuple, set, frozenset)):
        raise ConfigError(
            f"metric_fn is {metric_fn!r:.80}; expected a function of (preds, target), or a mapping that names such "
            f"functions: {_probably_meant(metric_fn)}. For no metrics pass {{}}."
        )
    metrics = dict(metric_fn) if isinstance(metric_fn, Mapping) else {"metric": metric_fn}
    for name, metric in metrics.items():
        if name == "loss" or not isinstance(name, str):
            raise ConfigError(f"A metric is named {name!r}; expected a string other than 'loss', which is taken.")
        _check_metric(name, metric)
    values = [one for name, metric in metrics.items() for one in value_names(name, metric)]
    twice = [one for one in values if values.count(one) > 1]
    if twice:
        raise ConfigError(f"Two metrics give a value named {twice[0]!r}. Name one of them otherwise.")
    return metrics


def value_names(name: str, metric: object) -> Sequence[str]:
    """Return what the values of a metric are called, as far as it says so."""
    keys: Sequence[str] | None = getattr(metric, "names", None) if is_metric(metric) else None
    return [name] if keys is None else [f"{name}/{key}" for key in keys]


def _check_metric(name: str, metric: object) -> None:
    expected = "expected a function of (preds, target)"
    if is_metric(metric):
        _check_whole(name, metric)
        return
    if not callable(metric):
        raise ConfigError(f"metric {name} is {metric!r:.80}; {expected}, or a Metric.")
    if remembers_calls(metric):
        meant = "a Metric, whose memory is in the state"
        if any(kind.__module__.split(".")[0] == "torchmetrics" for kind in _owner(metric).__mro__):
            call = f"{_owner(metric).__name__}(...)"
            meant = f"nntrain.metrics.from_torchmetrics({call}), whose memory is in the state"
        raise ConfigError(
            f"metric {name} is {function_name(metric)}, which collects all that it is called with, train and eval "
            f"together, and in no state; expected {meant}, or a function of (preds, target), as those in "
            f"torchmetrics.functional are, whose number is taken for each batch; that of a phase is their mean."
        )
    kind = class_of_calls(metric)
    if kind is not None:
        raise ConfigError(f"metric {name} is the class {kind.__name__}; {expected}.")
    problem = call_problem(metric, "preds", "target")
    if problem is not None:
        raise ConfigError(f"metric {name} ({function_name(metric)}) cannot be called with (preds, target): {problem}.")


def _check_whole(name: str, metric: object) -> None:
    """Raise `ConfigError` for what is meant as a `Metric`, and is none."""
    kind = class_of_calls(metric)
    if kind is not None:
        raise ConfigError(f"metric {name} is the class {kind.__name__}; expected an instance: {kind.__name__}(...).")
    arguments = {"init": (), "update": ("memory", "output"), "merge": ("one", "other"), "compute": ("memory",)}
    of = f"metric {name} ({function_name(metric)})"
    lacking = [one for one in arguments if not callable(getattr(metric, one, None))]
    if lacking:
        raise ConfigError(
            f"{of} has no {', '.join(lacking)}; expected a Metric, with init(), update(memory, output), "
            f"merge(one, other) and compute(memory)."
        )
    for method, given in arguments.items():
        problem = call_problem(getattr(metric, method), *given)
        if problem is not None:
            raise ConfigError(f"{method} of {of} cannot be called with ({', '.join(given)}): {problem}.")
    names: object = getattr(metric, "names", None)
    if names is not None and not (
        isinstance(names, (tuple, list)) and names and all(isinstance(one, str) and one for one in names)
    ):
        raise ConfigError(f"names of {of} is {names!r:.80}; expected a tuple of strings, the names that compute gives.")


def _owner(function: object) -> type:
    """Return the class of an object, a method's object, a partial's function, or a class itself."""
    while isinstance(function, partial):
        function = function.func
    owner = getattr(function, "__self__", function)
    return owner if isinstance(owner, type) else type(owner)


def _probably_meant(given: Collection[object] | None) -> str:
    """Return a mapping of the metrics that were given without names, as code."""
    functions = [given] if isinstance(given, str) else given or ()
    names = [one if isinstance(one, str) else function_name(one) for one in functions]
    if not names or not all(name.isidentifier() for name in names):
        names = ["accuracy"]
    return "{" + ", ".join(f'"{name}": {name}' for name in names) + "}"


def measure(metrics: Mapping[str, MetricFn], preds: object, target: object) -> dict[str, Tensor | float]:
    """Return each metric of a batch: a detached 0-dim tensor, or a float. Raises `MetricError` for anything else."""
    return {name: _number(name, metric, preds, target) for name, metric in metrics.items()}


def _number(name: str, metric: Callable[[Any, Any], object], preds: object, target: object) -> Tensor | float:
    try:
        value: object = metric(preds, target)
    except Exception as error:
        add_note(error, f"nntrain: raised by metric {name}; preds {described(preds)}, target {described(target)}")
        raise
    if isinstance(value, Tensor) and not value.ndim and not value.is_complex():
        return value.detach()
    if isinstance(value, (int, float)):
        return float(value)
    given = described(value) if isinstance(value, Tensor) else repr(value)[:80]
    raise MetricError(f"metric {name} returned {given}; expected a number, as a 0-dim tensor or a float.")
