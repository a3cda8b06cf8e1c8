"""The figures of what was seen within phases: rates and gradients by group, activations by layer, and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from nntrain.log.events import BatchFinished
from nntrain.log.line import Line
from nntrain.log.replay import Run
from nntrain.log.report.series import Series, by_name
from nntrain.values.looks import Activations, Throughput

_NORM: Final = "grad_norm/"
_MIB: Final = 2**20


class Within(NamedTuple):
    """A figure with a curve for each of several names: its titles, and the curves of a run."""

    title: str
    y_title: str
    curves: Callable[[Run, int], Iterator[Series]]


def is_of_group(metric: str) -> bool:
    """Return whether a batch's metric is the norm of a group's gradients: all of these are drawn in one figure."""
    return _NORM in metric


def _of_batches(values: Callable[[BatchFinished], Mapping[str, float]]) -> Callable[[Run, int], Iterator[Series]]:
    def found(line: Line) -> Mapping[str, float]:
        return values(line.event) if isinstance(line.event, BatchFinished) else {}

    return lambda run, buckets: by_name(run, run.batches, found, buckets)


def _of_layers(stat: str) -> Callable[[Run, int], Iterator[Series]]:
    value = attrgetter(stat)

    def found(line: Line) -> Mapping[str, float]:
        return {one.layer: value(one) for one in line.event.layers} if isinstance(line.event, Activations) else {}

    return lambda run, buckets: by_name(run, run.looks, found, buckets)


def _of_throughput(
    values: Callable[[Line, Throughput], Mapping[str, float | None]],
) -> Callable[[Run, int], Iterator[Series]]:
    def found(line: Line) -> Mapping[str, float]:
        named = values(line, line.event) if isinstance(line.event, Throughput) else {}
        return {name: value for name, value in named.items() if value is not None}

    return lambda run, buckets: by_name(run, run.looks, found, buckets)


def norms_of(event: BatchFinished) -> Mapping[str, float]:
    """Return the norms of the gradients of a batch's groups, by their names."""
    return {name.replace(_NORM, ""): value for name, value in event.metrics.items() if is_of_group(name)}


def _speed(line: Line, event: Throughput) -> Mapping[str, float | None]:
    return {line.label: event.samples_per_s}


def _memory(_: Line, event: Throughput) -> Mapping[str, float | None]:
    taken = {
        "device": event.device_bytes,
        "device, at most": event.device_peak_bytes,
        "process, at most": event.process_peak_bytes,
    }
    return {name: None if count is None else count / _MIB for name, count in taken.items()}


WITHIN: Final[Sequence[Within]] = (
    Within("learning rates by group", "learning rate", _of_batches(lambda event: event.group_lrs or {})),
    Within("gradient norms by group", "grad_norm", _of_batches(norms_of)),
    Within("activations: mean by layer", "mean", _of_layers("mean")),
    Within("activations: standard deviation by layer", "deviation", _of_layers("std")),
    Within("activations: share of dead units by layer", "share", _of_layers("dead")),
    Within("activations: share near zero by layer", "share", _of_layers("near_zero")),
    Within(
        "throughput, samples per second",
        "samples/s",
        _of_throughput(lambda line, event: {line.label: event.samples_per_s}),
    ),
    Within("memory, MiB", "MiB", _of_throughput(_memory)),
)
"""All of them. Those that a run has nothing of are not drawn."""
