"""The metrics of a learner over a phase: means of the batches' values, and what `Metric`s remember of all batches.

Invariant: a memory that is in a state is never written again. `update`, `merge` and `compute` get containers of their
own, and are refused where they write to a tensor: the first time it is a copy's, so that no state is touched; an update
that writes only later is refused after it did. A tensor of the batch itself is copied before it is remembered, since
whoever made the batch may use its memory again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from nntrain.errors import MetricError, add_note
from nntrain.metrics.metric import Metric, is_metric
from nntrain.values.memory import Memory, memory_copy, memory_map, memory_problem, memory_tensors
from nntrain.values.output import StepOutput
from nntrain.values.tensors import plain_layout
from nntrain.values.trees import described, tensors_of

Result = TypeVar("Result")
_CONTIGUOUS: Final = torch.contiguous_format
_STRIDED: Final = torch.strided
_is_alias_of: Callable[[Tensor, Tensor], bool] = torch._C._is_alias_of  # type: ignore[attr-defined] # not in its stubs


class PhaseMetrics:
    """A learner's metrics, told apart once: `functions`, whose means are summed, and `whole`, which have a memory."""

    def __init__(self, metrics: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        self.names: tuple[str, ...] = tuple(metrics)
        """All, in the order in which they are told."""
        self.whole: dict[str, Metric[Any]] = {name: one for name, one in metrics.items() if is_metric(one)}
        self.functions: dict[str, Any] = {name: one for name, one in metrics.items() if name not in self.whole}
        self._device = torch.device(device)
        self._looked_at: set[str] = set()
        """The metrics whose memory was seen to be a tree that a checkpoint can hold."""

    def init(self) -> dict[str, Memory]:
        """Return the memory of no batch, by the metrics' names. Raises `MetricError` for what is none."""
        return {name: self._init(name, metric) for name, metric in self.whole.items()}

    def update(self, memory: Mapping[str, Memory], output: StepOutput[Any]) -> dict[str, Memory]:
        """Return the memory of a batch more. An empty one is that of a phase that begins. Raises `MetricError`."""
        memory = memory or self.init()
        given = _tensors_of(output)
        after: dict[str, Memory] = {}
        for name, metric in self.whole.items():
            before = memory[name]
            if type(before) is Tensor and name in self._looked_at:  # the usual one
                version = before._version
                new = _called(name, metric.update, before, output)
                if version != before._version:
                    raise _writes(name, "update")
                if type(new) is Tensor:
                    after[name] = new if new is before else _own(name, given, new)
                    continue
            else:
                pure = partial(_pure, name, "update", metric.update, copies=name not in self._looked_at)
                new = _called(name, pure, before, output)
            after[name] = self._kept(name, metric, before, new, given)
        return after

    def values(self, means: Mapping[str, float], memory: Mapping[str, Memory]) -> dict[str, float]:
        """Return the values of a finished phase, of `means` by name and of what the metrics remember.

        Named numbers are called by the metric's name and their own, `"auc/far"`. Raises `MetricError`.
        """
        if not self.whole:
            return dict(means)
        found = {name: mean for name, mean in means.items() if name not in self.functions}
        for name in self.names:
            metric = self.whole.get(name)
            news = {name: means[name]} if metric is None else computed(name, metric, memory[name])
            twice = [one for one in news if one in found or one == "loss"]
            if twice:
                raise MetricError(
                    f"metric {name} gave a value named {twice[0]!r}, as another does. Rename one of them."
                )
            found |= news
        return found

    def here(self, memory: Memory) -> Memory:
        """Return a memory with its tensors on the training's device."""
        return memory_map(memory, lambda leaf: leaf.to(self._device) if isinstance(leaf, Tensor) else leaf)

    def _init(self, name: str, metric: Metric[Any]) -> Memory:
        try:
            made = metric.init()
        except Exception as error:
            add_note(error, f"nntrain: raised by init of metric {name}")
            raise
        self._check(name, "init", made, made)
        return memory_map(made, lambda leaf: leaf.to(self._device, copy=True) if isinstance(leaf, Tensor) else leaf)

    def _kept(self, name: str, metric: Metric[Any], before: Memory, new: Memory, given: list[Tensor]) -> Memory:
        """Return a new memory as a state may keep it. Raises `MetricError` the first time, if it is no such tree."""
        if new is None or name not in self._looked_at:
            self._check(name, "update", new, metric.init())
            self._looked_at.add(name)
        return memory_map(new, partial(_own, name, given), set(map(id, memory_tensors(before))))

    @staticmethod
    def _check(name: str, method: str, memory: Memory, template: Memory) -> None:
        problem = "it is None" if memory is None else memory_problem(memory, template)
        if problem is not None:
            given = "None" if memory is None else f"{described(memory):.80}"
            raise MetricError(
                f"{method} of metric {name} returned {given}; expected its memory, a tree (tuple, list, dict or "
                f"record) of tensors and numbers: {problem}."
            )


def _called(name: str, update: Callable[..., Memory], memory: Memory, output: StepOutput[Any]) -> Memory:
    """Return what an update returns; what it raises has a note of what it was given."""
    try:
        return update(memory, output)
    except Exception as error:
        if not isinstance(error, MetricError):
            said = f"preds {described(output.preds)}, target {described(output.target)}"
            add_note(error, f"nntrain: raised by update of metric {name}; {said}")
        raise


def _own(name: str, given: Sequence[Tensor], leaf: Any) -> Any:
    """Return a leaf as a memory may keep it: without a graph, and no part of what was `given`."""
    if not isinstance(leaf, Tensor):
        return leaf
    if type(leaf) is Tensor and leaf.layout is _STRIDED and not leaf.requires_grad and not leaf.is_inference():
        for one in given:
            if _is_alias_of(leaf, one):
                return leaf.clone(memory_format=_CONTIGUOUS)
        return leaf
    own = leaf.detach().clone()
    special = plain_layout(own)
    if special is not None:
        raise MetricError(f"metric {name} remembers a tensor that is {special}; expected plain ones.")
    return own


def computed(name: str, metric: Metric[Any], memory: Memory) -> dict[str, float]:
    """Return a metric's value by its name, or its values by `"name/key"`. Raises `MetricError` for no number."""
    try:
        value: object = _pure(name, "compute", metric.compute, memory, copies=True)
    except Exception as error:
        if not isinstance(error, MetricError):
            add_note(error, f"nntrain: raised by compute of metric {name}")
        raise
    said: object = getattr(metric, "names", None)
    if not isinstance(value, Mapping):
        if said is not None:
            raise MetricError(f"compute of metric {name} returned {value!r:.80}; expected a mapping of {said!r}.")
        return {name: _number(name, value)}
    odd = [key for key in value if not isinstance(key, str) or not key]
    if odd:
        raise MetricError(f"compute of metric {name} named a number {odd[0]!r}; expected a string that is not empty.")
    if said is not None and set(said) != set(value):  # type: ignore[call-overload] # checked when the learner was made
        raise MetricError(f"compute of metric {name} returned {', '.join(value) or 'nothing'}; its names are {said!r}.")
    return {f"{name}/{key}": _number(f"{name}/{key}", one) for key, one in value.items()}


def merged(name: str, metric: Metric[Any], one: Memory, other: Memory) -> Memory:
    """Return the memory of the samples of both. Raises `MetricError` where the merge writes to one of them."""
    return _pure(name, "merge", lambda both: metric.merge(*both), (one, other), copies=True)


def _pure(
    name: str, method: str, call: Callable[..., Result], memory: Memory, *others: StepOutput[Any], copies: bool
) -> Result:
    """Call with a memory in containers that are the caller's own; refuse what writes to its tensors, or to `copies`."""
    lent = memory_copy(memory) if copies else memory_map(memory, _same, set(map(id, memory_tensors(memory))))
    tensors = memory_tensors(lent)
    versions = [tensor._version for tensor in tensors]
    result = call(lent, *others)
    if versions != [tensor._version for tensor in tensors]:
        raise _writes(name, method)
    return result


def _writes(name: str, method: str) -> MetricError:
    return MetricError(
        f"{method} of metric {name} writes to the memory that it was given, which a state may hold. Return another "
        f"one: memory + new, and not memory += new, memory.add_(new) or memory[index] = new."
    )


def _same(leaf: Memory) -> Memory:
    return leaf


def _number(name: str, value: object) -> float:
    if isinstance(value, (int, float)) or (isinstance(value, Tensor) and not value.ndim and not value.is_complex()):
        number = float(value)
        return number if number == number else math.nan  # noqa: PLR0124 - one NaN for all, as of the means
    given = described(value) if isinstance(value, Tensor) else repr(value)[:80]
    raise MetricError(
        f"compute of metric {name} returned {given}; expected a number, as a float or a 0-dim tensor, or a mapping of "
        f"names to such."
    )


def _tensors_of(output: StepOutput[Any]) -> list[Tensor]:
    """Return the tensors of a batch's output."""
    found: list[Tensor] = []
    for part in (output.loss, output.preds, output.target, output.weight, *output.parts.values()):
        if type(part) is Tensor:
            found.append(part)
        elif part is not None and type(part) is not int:
            found += tensors_of(part)
    return found
