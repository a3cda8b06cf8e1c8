"""Monitors: values of a phase that a subscriber or sink reads by name. A wrong name is told as soon as that is known.

The names of metrics are known when a learner is made; those of the parts of a task's loss, and whether eval has a loss,
with the first batch of the phase; what a `Metric` without `names` computes, at its end.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nntrain.errors import ConfigError
from nntrain.metrics.measured import AnyMetric, named_metrics, value_names
from nntrain.metrics.metric import is_metric
from nntrain.values.calls import function_name

Monitoring = tuple[str, str]
"""Who reads a value, and its name: "loss", or a metric's, of eval; "far/loss" of a set; "train/loss"."""


def check_monitors(
    monitors: Iterable[Monitoring],
    metric_fn: AnyMetric | Mapping[str, AnyMetric] | None,
    sets: Sequence[str] = ("",),
) -> None:
    """Raise `ConfigError` where somebody, by name, reads a value that no phase will have, or one of several might.

    `sets` are those that are evaluated, "" for one without a name. With None for the metrics, any value may be there; a
    `Metric` that does not say its `names` may have any of its own.
    """
    labels = ["train", *(one or "eval" for one in sets)]
    if metric_fn is None:
        _check_labels(monitors, labels)
        return
    metrics = named_metrics(metric_fn)
    values = ["loss", *(one for name, metric in metrics.items() for one in value_names(name, metric))]
    for name in (*metrics, *values):
        if name.partition("/")[0] in sets and "/" in name:
            raise ConfigError(f"A metric is named {name!r}, as if it were one of the set {name.partition('/')[0]!r}.")
    there = [f"{one}/{value}" for one in labels for value in values]
    unsaid = [name for name, one in metrics.items() if _is_open(one)]
    open_ended = [f"{one}/{name}/" for one in labels for name in unsaid]
    if len(sets) == 1:
        there = [*values, *there]
        open_ended += [f"{name}/" for name in unsaid]
    for name, monitor in monitors:
        if monitor not in there and not monitor.startswith(tuple(open_ended)):
            shown = values if len(sets) == 1 else there
            meant = _meant(monitor, shown) or _meant(monitor, there)
            named = function_name(metric_fn)
            give = f' Name the metric: metric_fn={{"{monitor}": {named}}}.' if "metric" in values else ""
            raise ConfigError(f"{name} monitors {monitor!r}; there are {', '.join(shown)}.{meant or give}")


def _check_labels(monitors: Iterable[Monitoring], labels: Sequence[str]) -> None:
    """Raise `ConfigError` where a monitor does not say of which set it is, and there is not one."""
    for name, monitor in monitors:
        if len(labels) != 2 and monitor.partition("/")[0] not in labels:
            there = ", ".join(f"{label}/{monitor.rpartition('/')[2]}" for label in labels)
            raise ConfigError(f"{name} monitors {monitor!r}; say of which phase: {there}.")


@dataclass(frozen=True)
class Monitors:
    """What is read of the phases of a learner: looked at when the values of a phase are known.

    `sets` are those that are evaluated, "" for one without a name; `whole` are the metrics of a whole phase, by name.
    """

    read: tuple[Monitoring, ...]
    sets: tuple[str, ...]
    whole: Mapping[str, object]

    def check(self, label: str, means: Collection[str], *, has_loss: bool) -> None:
        """Raise `ConfigError` where a value of a phase is read that it will not have.

        `means` are the names of the parts and metrics that its batches have. What a `Metric` without `names` computes
        is not known yet: `check_values` tells.
        """
        self._check(label, [*means, *self._said], has_loss, self._unsaid)

    def check_values(self, label: str, values: Collection[str], *, has_loss: bool) -> None:
        """Raise `ConfigError` where a value of a finished phase is read that it does not have."""
        self._check(label, values, has_loss, ())

    def warning(self, means: Collection[str]) -> str | None:
        """Return what to warn of where a value of eval is read that a first batch of training, with `means`, has not.

        Eval may have others; where it has not, that is an error only after an epoch of training.
        """
        there = ["loss", *means, *self._said]
        for who, monitor in self.read:
            label, name = self._parted(monitor)
            if label != "train" and not _has(there, self._unsaid, name):
                return (
                    f"{who} monitors {monitor!r}, which a batch of training does not have: it has {', '.join(there)}."
                    f"{_meant(name, there)} Where eval does not have it either, its first batch will end the training."
                )
        return None

    def _check(self, label: str, means: Iterable[str], has_loss: bool, unsaid: Sequence[str]) -> None:
        there = [*(["loss"] if has_loss else []), *means]
        for who, monitor in self.read:
            of, name = self._parted(monitor)
            if monitor in there or of not in {label, ""} or (label == "train" and not of):
                continue
            if not _has(there, unsaid, name):
                instead = " or ".join(map(repr, [*there, "train/loss"]))
                give = f" Let the task return one there, StepOutput(loss, ...), or monitor {instead}."
                raise ConfigError(
                    f"{who} monitors {monitor!r}; the {label} phase has {', '.join(there) or 'no value'}"
                    f"{', and no loss' if name == 'loss' else ''}.{give if name == 'loss' else _meant(name, there)}"
                )

    def _parted(self, monitor: str) -> tuple[str, str]:
        """Return which phase a monitor is of, "" for that of eval, and the value's name."""
        label, _, name = monitor.partition("/")
        return (label, name) if name and label in {"train", *(one or "eval" for one in self.sets)} else ("", monitor)

    @property
    def _said(self) -> list[str]:
        return [one for name, metric in self.whole.items() for one in value_names(name, metric)]

    @property
    def _unsaid(self) -> tuple[str, ...]:
        return tuple(f"{name}/" for name, metric in self.whole.items() if _is_open(metric))


def _is_open(metric: object) -> bool:
    """Return whether a metric may have several values whose names it does not say."""
    return is_metric(metric) and getattr(metric, "names", None) is None


def _has(there: Collection[str], unsaid: Sequence[str], name: str) -> bool:
    return name in there or name.startswith(tuple(unsaid))


def _meant(name: str, there: Collection[str]) -> str:
    like = difflib.get_close_matches(name, there, n=1)
    return f" Did you mean {like[0]!r}?" if like else ""
