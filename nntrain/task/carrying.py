"""Truncated back-propagation through time: what a batch hands to the next one of its phase.

Invariant: what is in a state is never written again, and holds no graph. The task is lent a copy of it, and what it
hands on is copied before it is kept: whoever else has its memory may use that again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Never, TypeVar

import torch
from torch import Tensor, nn

from nntrain.errors import ConfigError, LossError
from nntrain.task.supervised import Compiles
from nntrain.task.task import Called, Task
from nntrain.values.calls import call_problem, class_of_calls, function_name
from nntrain.values.memory import Memory, memory_copy
from nntrain.values.output import StepOutput
from nntrain.values.tensors import plain_layout
from nntrain.values.trees import described

Batch = TypeVar("Batch")
Preds = TypeVar("Preds")
Preds_co = TypeVar("Preds_co", covariant=True)
Kept = TypeVar("Kept")
_NUMBERS: Final = frozenset({bool, int, float, type(None)})


@dataclass(frozen=True, slots=True)
class Handing(StepOutput[Preds_co]):
    """What a task made of a batch, with what it hands to the next."""

    kept: Memory = None


@dataclass(frozen=True)
class Carried(Generic[Batch, Preds_co, Kept]):
    """What `carry` returns. Called without `kept` it takes the batch for the first of its phase."""

    task: Callable[[Never, Batch, Kept | None], tuple[StepOutput[Preds_co], Kept]]

    def __post_init__(self) -> None:
        """Check the task."""
        task: object = self.task
        expected = "expected a function of (model, batch, kept) that returns (StepOutput(...), kept)"
        kind = class_of_calls(task)
        if kind is not None:
            raise ConfigError(f"carry got the class {kind.__name__}; {expected}.")
        if not callable(task):
            raise ConfigError(f"carry got {task!r:.80}; {expected}.")
        problem = call_problem(task, "model", "batch", None)
        if problem is not None:
            raise ConfigError(
                f"carry: {function_name(task)} cannot be called with (model, batch, kept): {problem}; {expected}."
            )

    def __call__(self, model: nn.Module, batch: Batch, kept: Kept | None = None) -> Handing[Preds_co]:
        """Return what the task makes of a batch after one that handed `kept` on. Raises `LossError` for no pair."""
        run: Any = self.task
        found: object = run(model, batch, memory_copy(kept))
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], StepOutput)):
            raise LossError(
                f"{self.source} returned {described(found):.200}; expected a pair of a StepOutput and what the next "
                f"batch is given, like (StepOutput(loss, preds, target), hidden)."
            )
        output, handed = found
        return Handing(output.loss, output.preds, output.target, output.weight, output.parts, kept=handed)

    @property
    def source(self) -> str:
        """Who gives the loss, for messages."""
        return f"task {function_name(self.task)}"

    def compiled(self, model: nn.Module, compiles: Compiles) -> Called[Batch]:  # noqa: ARG002 - it is called with one
        """Return the task compiled together with what it calls of the model."""
        task: Any = self.task

        def run(model: nn.Module, batch: Batch, kept: Kept | None) -> Any:
            return task(model, batch, kept)

        return replace(self, task=compiles(run))


def carry(
    task: Callable[[Never, Batch, Kept | None], tuple[StepOutput[Preds], Kept]],
) -> Carried[Batch, Preds, Kept]:
    """Return the task of batches that go on where the one before them ended, as the windows of a long sequence.

    `task` is a function of (model, batch, kept), and returns its `StepOutput` with what the next batch of the phase is
    given as `kept`: a tensor, a number, or a tuple, list or dict of such. The first batch of each phase is given None.
    What is handed on is detached and copied, and is a part of the state: `state.sums.carried`. Raises `ConfigError` for
    what is no such function.
    """
    return Carried(task)


def going_on(task: Task[Any, Any]) -> Task[Any, Any]:
    """Return a task for one pass over data beside any fit: one that carries does so from call to call."""
    return _GoingOn(task) if isinstance(task, Carried) else task


class _GoingOn:
    """A task that carries, with what the last call handed on."""

    def __init__(self, task: Carried[Any, Any, Any]) -> None:
        self._task = task
        self._kept: Memory = None
        self.source: str = task.source

    def __call__(self, model: nn.Module, batch: object) -> StepOutput[Any]:
        output = self._task(model, batch, self._kept)
        self._kept = handed_on(output, self._task)
        return output


def handed_on(output: StepOutput[Any], task: Carried[Any, Any, Any]) -> Memory:
    """Return what a task hands to the next batch, as it is kept. Raises `LossError` for what no state can hold."""
    return _own(output.kept, task.source, "") if isinstance(output, Handing) else None


def _own(tree: Memory, source: str, where: str) -> Memory:
    """Return a tree in memory of its own, detached."""
    kind = type(tree)
    if kind in _NUMBERS:
        return tree
    if isinstance(tree, Tensor):
        special = plain_layout(tree)
        if special is not None:
            raise LossError(f"{source} hands on a tensor that is {special}; expected plain ones.")
        return tree.detach().clone(memory_format=torch.contiguous_format)
    if kind is tuple or kind is list:
        return kind([_own(one, source, f"{where}[{index}]") for index, one in enumerate(tree)])
    if kind is dict and all(type(name) is str for name in tree):
        return {name: _own(one, source, f"{where}[{name!r}]") for name, one in tree.items()}
    said = f"a dict with keys other than strings {where}" if kind is dict else f"{where or 'it'} as {kind.__name__}"
    raise LossError(
        f"{source} hands on {said.strip()}; expected a tensor, a number or None, or a tuple, list or dict of such: a "
        f"checkpoint holds no class."
    )
