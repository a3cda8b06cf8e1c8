"""`from_torch`: a scheduler of torch's, read into a table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from nntrain.errors import ConfigError
from nntrain.schedules.curve import Curve, bound
from nntrain.values.calls import call_problem, class_of_calls, function_name
from nntrain.values.record import FrozenMapping

Factory = Callable[[torch.optim.Optimizer], LRScheduler]


def from_torch(factory: Factory, *, lr: float, of: str = "lr") -> Curve[float]:
    """Return the schedule of a torch scheduler, which `factory` makes of an optimizer, as a table.

    The optimizer is an SGD at the rate `lr` that trains nothing; `of` names what is read of it: "lr", or "momentum" of
    a scheduler that cycles that, too. The table is made as far as it is asked for: step n takes n steps of the
    scheduler, once. What comes after the scheduler's end is its own affair: some stay, some raise.

    `OneCycleLR` and `CyclicLR` change the momentum as well: take that too, `of="momentum"`, for Adam as
    `betas=tuple_of(from_torch(factory, lr=lr, of="momentum"), 0.999)`. A learner that takes only the rate warns.

    Raises `ConfigError` for what cannot be called with an optimizer alone, as a scheduler's class that needs more, for
    what makes no scheduler, and for one that needs to be told a loss.

    >>> from torch.optim.lr_scheduler import MultiStepLR
    >>> schedule = from_torch(lambda optimizer: MultiStepLR(optimizer, [2, 3], gamma=0.5), lr=1.0)
    >>> [schedule(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    given = bound("from_torch", inspect.signature(from_torch), (factory,), {"lr": lr, "of": of})
    return Curve(from_torch, given.args, FrozenMapping(given.kwargs), _Table(factory, lr, of))


class _Table:
    """The values of a scheduler over an optimizer of its own, as far as they were asked for."""

    def __init__(self, factory: Factory, lr: float, of: str) -> None:
        made_by = function_name(factory)
        kind = class_of_calls(factory)
        if not callable(factory) or kind is ReduceLROnPlateau:
            self._refuse(made_by if callable(factory) else repr(factory)[:80], plateau=kind is ReduceLROnPlateau)
        problem = call_problem(factory, "optimizer")
        if problem is not None:
            self._refuse(f"{made_by}, which cannot be called with (optimizer): {problem}", plateau=False, kind=kind)
        self._optimizer = torch.optim.SGD([torch.zeros((), device="cpu")], lr=lr)
        before = {**self._optimizer.param_groups[0]}
        made: object = factory(self._optimizer)
        if not isinstance(made, LRScheduler) or isinstance(made, ReduceLROnPlateau):
            self._refuse(f"{made_by}, which made {type(made).__name__}", plateau=isinstance(made, ReduceLROnPlateau))
        if getattr(made, "optimizer", self._optimizer) is not self._optimizer:
            raise ConfigError(f"from_torch: {made_by} made a scheduler of another optimizer than it was given.")
        self._scheduler: Any = made
        self._of = of
        if of not in self._optimizer.param_groups[0]:
            raise ConfigError(f"from_torch: of is {of!r}; an SGD has lr, momentum, dampening and weight_decay.")
        now = self._optimizer.param_groups[0]
        self.also_moves = tuple(name for name in before if name not in {"params", "lr"} and now[name] != before[name])
        """Which hyperparameters the scheduler has set beside the rate."""
        self._optimizer.step()  # before the scheduler, or torch warns
        self._values = [self._read()]
        self._lock = Lock()

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        if step >= len(self._values):
            with self._lock:
                while step >= len(self._values):
                    self._scheduler.step()
                    self._values.append(self._read())
        return self._values[step]

    def _read(self) -> float:
        return float(self._optimizer.param_groups[0][self._of])

    @staticmethod
    def _refuse(given: str, *, plateau: bool, kind: type | None = None) -> None:
        if plateau:
            raise ConfigError("from_torch: ReduceLROnPlateau needs to be told a loss. Use nntrain.ReduceOnPlateau.")
        like = f"{kind.__name__}(optimizer, ...)" if kind else "torch.optim.lr_scheduler.StepLR(optimizer, 30)"
        raise ConfigError(
            f"from_torch got {given}; expected a function of an optimizer that returns a torch scheduler, like "
            f"lambda optimizer: {like}."
        )
