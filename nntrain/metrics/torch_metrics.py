"""torchmetrics' metrics as metrics of a whole phase: what they collect is in the state."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError, MetricError, MissingExtraError
from nntrain.metrics.metric import Metric
from nntrain.values.output import StepOutput
from nntrain.values.trees import described, tensors_of

if TYPE_CHECKING:
    import torchmetrics

Collected = dict[str, Any]
"""The states of a torchmetrics metric by name, and how many updates they are of."""
Inputs = Callable[[StepOutput], tuple[object, ...] | Mapping[str, object]]
"""What `update` of a torchmetrics metric is given of a batch: by position, or by name."""

_MOST_NUMBERS: Final = 10_000
_ONE_AT_A_TIME: Final = threading.RLock()
"""The object that works may be shared by learners in several threads."""


def from_torchmetrics(
    metric: torchmetrics.Metric | torchmetrics.MetricCollection, inputs: Inputs | None = None
) -> Metric[dict[str, object]]:
    """Return a metric of torchmetrics, or a collection of such, as a `Metric`: exact for any batches.

    Args:
        metric: an object like `BinaryAUROC()`. It is copied, and what it has collected is left out.
        inputs: tells what its `update` is given of a batch's `StepOutput`, as a tuple, or a mapping of arguments by
            name. By default the predictions and the target; for one that takes no target, such as `MeanMetric`, the
            predictions.

    A result that is a vector, a matrix or a mapping, and each of a collection, are named numbers: `confusion/0/1`.

    Raises `ConfigError` for a metric whose parts cannot be merged exactly, or that keeps more than its states: one with
    a reduction of its own or none for a tensor (as `PearsonCorrCoef`), wrappers, and what holds a model.
    """
    try:
        import torchmetrics
    except ImportError as error:
        raise MissingExtraError(
            "from_torchmetrics needs torchmetrics, which is not installed: pip install 'nntrain[torchmetrics]'."
        ) from error
    if isinstance(metric, type):
        name = metric.__name__
        raise ConfigError(f"from_torchmetrics got the class {name}; expected an object: {name}(...).")
    if inputs is not None and not callable(inputs):
        raise ConfigError(f"inputs is {inputs!r:.80}; expected a function of the StepOutput that returns a tuple.")
    if isinstance(metric, torchmetrics.MetricCollection):
        return _Collection({str(name): _adapted(one, inputs) for name, one in metric.items(copy_state=True)})
    if not isinstance(metric, torchmetrics.Metric):
        raise ConfigError(f"from_torchmetrics got {metric!r:.80}; expected a torchmetrics.Metric, like BinaryAUROC().")
    return _adapted(metric, inputs)


def _adapted(metric: torchmetrics.Metric, inputs: Inputs | None) -> _Adapted:
    from torchmetrics.aggregation import BaseAggregator

    _check_mergeable(metric)
    return _Adapted(metric, inputs or (_preds_only if isinstance(metric, BaseAggregator) else _preds_and_target))


def _preds_and_target(output: StepOutput[Any]) -> tuple[Any, ...]:
    return output.preds, output.target


def _preds_only(output: StepOutput[Any]) -> tuple[Any, ...]:
    return (output.preds,)


def _check_mergeable(metric: torchmetrics.Metric) -> None:
    """Raise `ConfigError` where parts of a phase could not be put together, or a state is not all that is kept."""
    kind = type(metric).__name__
    advice = "Write a Metric that computes it (init, update, merge, compute), or measure it after the training."
    if any(True for _ in metric.children()):
        held = ", ".join(name for name, _ in metric.named_children())
        raise ConfigError(
            f"from_torchmetrics cannot take {kind}: it holds modules of its own ({held}), as wrappers and metrics with "
            f"a model do, so its states are not all that it keeps. {advice}"
        )
    if not metric._defaults:
        raise ConfigError(f"from_torchmetrics cannot take {kind}: it has no states (add_state). {advice}")
    if metric.full_state_update and not type(metric).__module__.startswith("torchmetrics."):
        raise ConfigError(
            f"from_torchmetrics cannot take {kind}: by its full_state_update=True an update depends on what was "
            f"collected before, so parts cannot be merged. {advice}"
        )
    for name, default in metric._defaults.items():
        if _reduction(metric, name) is None:
            how = metric._reductions[name]
            said = "no reduction" if how is None else f"a reduction of its own ({getattr(how, '__name__', how)})"
            raise ConfigError(
                f"from_torchmetrics cannot take {kind}: its state {name} has {said}, so that parts cannot be merged. "
                f"{advice}"
            )
        if _reduction(metric, name) == "sum" and not (isinstance(default, Tensor) and not default.any()):
            raise ConfigError(
                f"from_torchmetrics cannot take {kind}: its state {name} is summed, and does not begin at 0. {advice}"
            )


def _reduction(metric: torchmetrics.Metric, name: str) -> str | None:
    """Return how parts of a state are merged, by its own reduction; None where that is not defined."""
    from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_mean, dim_zero_min, dim_zero_sum

    how, listed = metric._reductions[name], isinstance(metric._defaults[name], list)
    if listed:
        return "list" if how is None else "cat" if how == dim_zero_cat else None
    known: dict[object, str] = {
        dim_zero_sum: "sum",
        dim_zero_mean: "mean",
        dim_zero_max: "max",
        dim_zero_min: "min",
        dim_zero_cat: "cat",
    }
    return known.get(how) if how is not None else None


class _Adapted(Metric[Collected]):
    """A torchmetrics metric, whose states are brought in before each call, and read out after it."""

    def __init__(self, metric: torchmetrics.Metric, inputs: Inputs) -> None:
        self._metric = copy.deepcopy(metric)
        self._metric.reset()
        self._metric._to_sync = self._metric.sync_on_compute = False  # merging over processes is not its own affair
        self._metric.compute_with_cache = False
        self._inputs = inputs
        self._reductions = {name: _reduction(metric, name) for name in metric._defaults}
        self._note_attributes()

    @property
    def _kind(self) -> str:
        return type(self._metric).__name__

    def __repr__(self) -> str:
        return f"from_torchmetrics({self._kind}())"

    def init(self) -> Collected:
        """Return the states as they begin."""
        begun: dict[str, Any] = {}
        for name, default in self._metric._defaults.items():
            begun[name] = default.detach().clone() if isinstance(default, Tensor) else []
        return {"updates": 0, "states": begun}

    def update(self, memory: Collected, output: StepOutput[Any], /) -> Collected:
        """Return the states after its own `update`."""
        given = self._inputs(output)
        metric = self._metric
        with self._loaded(memory, next(tensors_of(given), None)):
            if isinstance(given, Mapping):
                metric.update(**given)
            elif isinstance(given, tuple):
                metric.update(*given)
            else:
                raise MetricError(
                    f"inputs of torchmetrics' {self._kind} returned {described(given)}; expected a tuple of what its "
                    f"update takes by position, or a mapping of arguments by name."
                )
            self._check_states()
            states = {name: self._taken(name, vars(metric)[name]) for name in self._reductions}
        return {"updates": memory["updates"] + 1, "states": states}

    def merge(self, one: Collected, other: Collected, /) -> Collected:
        """Return the states of both, by the metric's own reductions."""
        ones, others = one["updates"], other["updates"]
        if not ones or not others:
            return one if ones else other
        merged = {
            name: _merged(how or "", one["states"][name], other["states"][name], ones, others)
            for name, how in self._reductions.items()
        }
        return {"updates": ones + others, "states": merged}

    def compute(self, memory: Collected, /) -> float | dict[str, float]:
        """Return its own result, as a number, or as named numbers."""
        with self._loaded(memory, next(tensors_of(memory["states"]), None)):
            result: object = self._metric.compute()
        found = dict(_numbers(result, (), self._kind))
        return found[""] if found.keys() == {""} else found

    def _check_states(self) -> None:
        """Raise `MetricError` where an update set what is none of the states."""
        now = vars(self._metric)
        if len(now) == self._count and all(now.get(name) is one for name, one in self._others.items()):
            return
        public = [name for name in now if not name.startswith("_") and name not in self._reductions]
        unseen = [name for name in public if now[name] is not self._others.get(name, now)]
        if unseen:
            raise MetricError(
                f"update of torchmetrics' {self._kind} sets {', '.join(unseen)}, which is none of its states "
                f"(add_state), and would be lost when a training is resumed. Set it when the metric is made."
            )

    def _note_attributes(self) -> None:
        """Remember what the metric has beside its states."""
        self._count = len(vars(self._metric))
        self._others = {
            name: one
            for name, one in vars(self._metric).items()
            if not name.startswith("_") and name not in self._reductions
        }

    def _taken(self, name: str, state: Any) -> Any:
        if not isinstance(state, list):
            return state
        return _compact(state) if self._reductions[name] == "cat" else list(state)

    @contextmanager
    def _loaded(self, memory: Collected, example: Tensor | None) -> Iterator[None]:
        """Bring states in, as copies that may be written to, where the batch is; take them out again."""
        metric, states = self._metric, memory["states"]
        if states.keys() != self._reductions.keys():
            raise MetricError(
                f"torchmetrics' {self._kind} has the states {', '.join(self._reductions)}; its memory is of "
                f"{', '.join(states)}. Finish the phase with the metric that it was begun with."
            )
        with _ONE_AT_A_TIME:
            if example is not None and example.device != metric.device:
                metric.to(example.device)
                self._note_attributes()
            held = vars(metric)  # not by setattr, which a module makes slow: a state is a plain attribute
            for name, state in states.items():
                held[name] = state.clone() if isinstance(state, Tensor) else list(state)
            held["_update_count"], held["_computed"] = memory["updates"], None
            try:
                yield
            finally:
                held["_computed"] = None
                for name, default in metric._defaults.items():
                    held[name] = [] if isinstance(default, list) else default


class _Collection(Metric[Collected]):
    """Several metrics of torchmetrics under one name."""

    def __init__(self, metrics: Mapping[str, _Adapted]) -> None:
        if not metrics:
            raise ConfigError("from_torchmetrics got a MetricCollection without metrics.")
        self._metrics = dict(metrics)

    def init(self) -> Collected:
        return {name: one.init() for name, one in self._metrics.items()}

    def update(self, memory: Collected, output: StepOutput[Any], /) -> Collected:
        return {name: one.update(memory[name], output) for name, one in self._metrics.items()}

    def merge(self, one: Collected, other: Collected, /) -> Collected:
        return {name: metric.merge(one[name], other[name]) for name, metric in self._metrics.items()}

    def compute(self, memory: Collected, /) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, metric in self._metrics.items():
            value = metric.compute(memory[name])
            found |= {f"{name}/{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        return found


def _merged(how: str, one: Any, other: Any, ones: int, others: int) -> Any:
    match how:
        case "sum":
            return one + other
        case "mean":
            return (one * ones + other * others) / (ones + others)
        case "max":
            return torch.maximum(one, other)
        case "min":
            return torch.minimum(one, other)
        case "cat" if isinstance(one, Tensor):
            return torch.cat([one, other])
        case _:
            return [*one, *other]


def _compact(parts: list[Tensor]) -> list[Tensor]:
    """Return a list that is to be concatenated as one of few parts: so a phase of many batches remembers few tensors.

    The last two become one while the last is no shorter: each element is copied a logarithm of the batches times.
    """
    parts = list(parts)
    while len(parts) > 1:
        before, last = parts[-2:]
        alike = before.ndim > 0 and before.shape[1:] == last.shape[1:] and before.ndim == last.ndim
        if not alike or before.dtype != last.dtype or before.device != last.device or len(before) > len(last):
            break
        parts[-2:] = [torch.cat([before, last])]
    return parts


def _numbers(result: object, key: tuple[str, ...], kind: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a result by their names: the indices of a tensor, the keys of a mapping."""
    if isinstance(result, Tensor) and not result.is_complex() and result.numel() <= _MOST_NUMBERS:
        indices = product(*(range(size) for size in result.shape))
        yield from (
            ("/".join((*key, *map(str, index))), float(number))
            for index, number in zip(indices, result.detach().reshape(-1).tolist(), strict=True)
        )
    elif isinstance(result, (int, float)):
        yield "/".join(key), float(result)
    elif isinstance(result, Mapping) or (
        isinstance(result, tuple) and not any(getattr(one, "ndim", 1) for one in result)
    ):
        for name, part in result.items() if isinstance(result, Mapping) else enumerate(result):
            yield from _numbers(part, (*key, str(name)), kind)
    else:
        raise MetricError(
            f"compute of torchmetrics' {kind} returned {described(result):.200}; expected a number, or a vector, "
            f"matrix or mapping of at most {_MOST_NUMBERS} numbers."
        )
