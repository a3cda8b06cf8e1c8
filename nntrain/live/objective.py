"""An objective: a task with the rule that writes what its gradients become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Never, cast

import torch
from torch import Tensor, nn

from nntrain.errors import ConfigError, DataError
from nntrain.task.carrying import Carried, carry, handed_on
from nntrain.task.supervised import Supervised
from nntrain.task.task import Called, Task, check_task
from nntrain.update.chaining import optimizer_of
from nntrain.update.rule import UpdateRule
from nntrain.values.memory import Memory
from nntrain.values.output import StepOutput
from nntrain.values.sums import Weight


@dataclass(frozen=True)
class Objective:
    """One of several things that a batch is trained for, as the two of a GAN.

    A batch is all of a learner's objectives in order: each evaluates its task, with the weights that those before it
    have written, and then writes its own parameters.

    Args:
        name: under which its loss, and the parts of it (`"d.real"`), are told.
        task: what a batch means to it.
        update: what its gradients become. It says which parameters it trains:
            `optimizer(torch.optim.Adam, lr=2e-4, params="discriminator.*")`.

    Raises `ConfigError` for what cannot be meant.
    """

    name: str
    task: Task[Never, object]
    update: UpdateRule

    def __post_init__(self) -> None:
        """Check every argument."""
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name == "loss":
            raise ConfigError(f"An objective is named {self.name!r}; expected a name like 'generator', and not 'loss'.")
        check_task(self.task)
        if isinstance(self.task, Supervised) and self.task.metric_fn:
            raise ConfigError(
                f"The task of objective {self.name!r} has metrics; with objectives they are the learner's: "
                f"Learner.of(..., metrics=...)."
            )
        optimizer_of(self.update)


def check_objectives(objectives: object) -> tuple[Objective, ...]:
    """Return the objectives. Raises `ConfigError` for what is no list of such, each with a name of its own."""
    if isinstance(objectives, (str, Mapping, Objective)) or not isinstance(objectives, Iterable):
        raise ConfigError(f"objectives is {objectives!r:.80}; expected a list, like objectives=[Objective(...), ...].")
    found: tuple[Any, ...] = tuple(objectives)
    for one in found:
        if not isinstance(one, Objective):
            raise ConfigError(f"objectives has {one!r:.80}; expected Objective(name, task, update).")
    names = [one.name for one in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not found:
        raise ConfigError(
            f"Two objectives are named {twice[0]!r}; each has a name of its own."
            if twice
            else "objectives is empty; expected one Objective(name, task, update) at least."
        )
    return found


def joined(outputs: Mapping[str, StepOutput[Any]]) -> StepOutput[Any]:
    """Return the outputs of several objectives as one: predictions and targets are by the objectives' names.

    The loss is the sum of theirs; each is a part, under its objective's name. The means of a phase have one weight: the
    first that is said. Raises `DataError` where another is said as well.
    """
    losses = {name: one.loss for name, one in outputs.items() if one.loss is not None}
    parts: dict[str, Tensor] = {}
    for name, one in outputs.items():
        parts |= {name: losses[name]} if name in losses else {}
        parts |= {f"{name}.{part}": mean for part, mean in one.parts.items()}
    said = {name: one.weight for name, one in outputs.items() if one.weight is not None}
    if len(said) > 1:
        _check_weights(said)
    return StepOutput(
        torch.stack(list(losses.values())).sum() if losses else None,
        {name: one.preds for name, one in outputs.items()},
        {name: one.target for name, one in outputs.items() if one.target is not None},
        next(iter(said.values()), None),
        parts,
    )


def _check_weights(said: Mapping[str, Weight]) -> None:
    """Raise `DataError` where objectives weigh a batch differently, as far as numbers tell it without a wait."""
    known = {
        name: float(weight)
        for name, weight in said.items()
        if not isinstance(weight, Tensor) or (weight.device.type == "cpu" and weight.numel() == 1)
    }
    if len(set(known.values())) > 1:
        raise DataError(
            f"The objectives weigh a batch differently: {', '.join(f'{name} {one:g}' for name, one in known.items())}. "
            f"The means of a phase have one weight: let one of them say it, or all the same."
        )


def task_of(objectives: Sequence[Objective]) -> Task[Any, Any]:
    """Return what a batch means to all objectives, where none of them writes."""

    def task(model: nn.Module, batch: object) -> StepOutput[Any]:
        return joined({one.name: cast(Called[Any], one.task)(model, batch) for one in objectives})

    def carrying(model: nn.Module, batch: object, kept: Mapping[str, Memory] | None) -> tuple[StepOutput[Any], Any]:
        outputs: dict[str, StepOutput[Any]] = {}
        handed: dict[str, Memory] = {}
        for one in objectives:
            of_task: Any = one.task
            if isinstance(one.task, Carried):
                outputs[one.name] = of_task(model, batch, (kept or {}).get(one.name))
                handed[one.name] = handed_on(outputs[one.name], one.task)
            else:
                outputs[one.name] = of_task(model, batch)
        return joined(outputs), handed

    return carry(carrying) if any(isinstance(one.task, Carried) for one in objectives) else task
