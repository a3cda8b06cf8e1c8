"""The metrics of one batch: functions of (preds, target), each checked to return a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Never

from torch import Tensor

from nntrain.errors import ConfigError, MetricError, add_note
from nntrain.values.trees import described

MetricFn = Callable[[Never, Never], Tensor]
"""A function of (preds, target) to one number, a 0-dim tensor. A float will do at run time; it waits for the device."""


def named_metrics(metric_fn: MetricFn | Mapping[str, MetricFn]) -> Mapping[str, MetricFn]:
    """Return metrics by name; a single one is named "metric". Raises `ConfigError` for what is no metric."""
    metrics = dict(metric_fn) if isinstance(metric_fn, Mapping) else {"metric": metric_fn}
    for name, metric in metrics.items():
        if not callable(metric):
            raise ConfigError(f"metric {name} is {metric!r}; expected a function of (preds, target).")
        if name == "loss" or not isinstance(name, str):
            raise ConfigError(f"A metric is named {name!r}; expected a string other than 'loss', which is taken.")
    return metrics


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
