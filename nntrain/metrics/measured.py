"""The metrics of one batch: functions of (preds, target), each checked to return a number."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Never

from torch import Tensor

from nntrain.errors import ConfigError, MetricError, add_note
from nntrain.values.calls import call_problem, class_of_calls, function_name, remembers_calls
from nntrain.values.trees import described

MetricFn = Callable[[Never, Never], Tensor]
"""A function of (preds, target) to one number, a 0-dim tensor. A float will do at run time; it waits for the device."""


def named_metrics(metric_fn: MetricFn | Mapping[str, MetricFn]) -> Mapping[str, MetricFn]:
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
    return metrics


def check_monitors(
    monitors: Iterable[tuple[str, str | Collection[str]]],
    metric_fn: MetricFn | Mapping[str, MetricFn] | None,
    sets: Sequence[str] = ("",),
) -> None:
    """Raise `ConfigError` where somebody, by name, reads a value that no phase will have, or one of several might.

    `sets` are those that are evaluated, "" for one without a name. With None for the metrics, any value may be there.
    """
    labels = ["train", *(one or "eval" for one in sets)]
    if metric_fn is None:
        _check_labels(monitors, labels)
        return
    values = ["loss", *named_metrics(metric_fn)]
    for name in values:
        if name.partition("/")[0] in sets and "/" in name:
            raise ConfigError(f"A metric is named {name!r}, as if it were one of the set {name.partition('/')[0]!r}.")
    there = [f"{one}/{value}" for one in labels for value in values]
    if len(sets) == 1:
        there = [*values, *there]
    for name, given in monitors:
        for monitor in (given,) if isinstance(given, str) else given:
            if monitor not in there:
                shown = values if len(sets) == 1 else there
                like = difflib.get_close_matches(monitor, shown, n=1) or difflib.get_close_matches(monitor, there, n=1)
                meant = f" Did you mean {like[0]!r}?" if like else ""
                named = function_name(metric_fn)
                give = f' Name the metric: metric_fn={{"{monitor}": {named}}}.' if "metric" in values else ""
                raise ConfigError(f"{name} monitors {monitor!r}; there are {', '.join(shown)}.{meant or give}")


def _check_labels(monitors: Iterable[tuple[str, str | Collection[str]]], labels: Sequence[str]) -> None:
    """Raise `ConfigError` where a monitor does not say of which set it is, and there is not one."""
    for name, given in monitors:
        for monitor in (given,) if isinstance(given, str) else given:
            if len(labels) != 2 and monitor.partition("/")[0] not in labels:
                there = ", ".join(f"{label}/{monitor.rpartition('/')[2]}" for label in labels)
                raise ConfigError(f"{name} monitors {monitor!r}; say of which phase: {there}.")


def _check_metric(name: str, metric: object) -> None:
    expected = "expected a function of (preds, target)"
    if not callable(metric):
        raise ConfigError(f"metric {name} is {metric!r:.80}; {expected}.")
    if remembers_calls(metric):
        raise ConfigError(
            f"metric {name} is {function_name(metric)}, which collects all that it is called with, train and eval "
            f"together, and in no state; {expected}, as those in torchmetrics.functional are. Its number is taken for "
            f"each batch; that of a phase is their mean over the samples."
        )
    kind = class_of_calls(metric)
    if kind is not None:
        raise ConfigError(f"metric {name} is the class {kind.__name__}; {expected}.")
    problem = call_problem(metric, "preds", "target")
    if problem is not None:
        raise ConfigError(f"metric {name} ({function_name(metric)}) cannot be called with (preds, target): {problem}.")


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
