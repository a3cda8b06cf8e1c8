"""The rule that is a torch optimizer: its class, its hyperparameters, and which parameters it trains, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.schedules import Hyper, check_hyperparameter, is_schedule
from nntrain.update.torch_optimizer import Compiled, Group, LiveOptimizer, check_optim_class, names_taken
from nntrain.values.calls import class_of_calls, function_name, meant
from nntrain.values.record import FrozenMapping


@dataclass(frozen=True)
class OptimizerRule:
    """What `optimizer` returns."""

    optim_class: Callable[..., torch.optim.Optimizer]
    params: tuple[str, ...]
    groups: FrozenMapping[FrozenMapping[Hyper]]
    hyperparameters: FrozenMapping[Hyper]

    def __post_init__(self) -> None:
        check_optim_class(self.optim_class, tuple(self.hyperparameters))
        for name, value in self.hyperparameters.items():
            check_hyperparameter(name, value)
        for pattern, own in self.groups.items():
            for name, value in own.items():
                try:
                    check_hyperparameter(name, value)
                except ConfigError as error:
                    raise ConfigError(f"In groups[{pattern!r}]: {error}") from error

    def __repr__(self) -> str:
        said = [
            function_name(self.optim_class),
            *(f"{name}={_said(one)}" for name, one in self.hyperparameters.items()),
        ]
        if self.params != ("*",):
            said.append(f"params={list(self.params)}")
        if self.groups:
            groups = {pattern: {name: _said(one) for name, one in own.items()} for pattern, own in self.groups.items()}
            said.append(f"groups={groups}")
        return f"optimizer({', '.join(said)})"

    def bind(self, params: dict[str, Tensor], /) -> LiveOptimizer:
        """Return the optimizer over live parameters, by name."""
        return self.live(params, None)

    def live(self, params: Mapping[str, Tensor], compiled: Compiled | None) -> LiveOptimizer:
        """Return the optimizer over those of `params` that it trains. Raises `ConfigError` where a pattern is wrong."""
        trained = matching(params, self.params)
        return LiveOptimizer(trained, self.optim_class, self.hyperparameters, self._grouped(trained), compiled)

    def left_still(self) -> str | None:
        """Return what to warn of: that a scheduler of torch's moves more than the rate, which alone is taken of it."""
        all_of = [self.hyperparameters, *self.groups.values()]
        taken = {name for own in all_of for name, value in own.items() if is_schedule(value)}
        takes = names_taken(self.optim_class)
        for own in all_of:
            for moved, call in getattr(own.get("lr"), "also_moves", {}).items():
                name = "betas" if moved == "momentum" and "betas" in takes else moved
                known = class_of_calls(self.optim_class) is not None and takes
                if name in taken or (known and name not in takes):  # of a function it is not known what it makes
                    continue
                betas = self.hyperparameters.get("betas")
                last = betas[1] if isinstance(betas, tuple) and len(betas) == 2 else 0.999
                said = f"betas=tuple_of({call}, {last})" if name == "betas" else f"{name}={call}"
                kind = function_name(self.optim_class)
                return (
                    f"The scheduler of lr={own['lr']!r} changes the {moved} too, in a loop with it; here "
                    f"{kind} keeps its {name}. Take both: optimizer({kind}, lr=..., {said}). Or let the "
                    f"scheduler change the rate alone, for OneCycleLR and CyclicLR by cycle_momentum=False."
                )
        return None

    def lr_at(self, step: int) -> float:
        """Return the learning rate at a step; NaN where it is left to the class."""
        return _rate_at(self.hyperparameters.get("lr"), step)

    def group_lrs_at(self, step: int) -> dict[str, float]:
        """Return the learning rates at a step of those groups that have their own, by pattern."""
        return {pattern: _rate_at(own["lr"], step) for pattern, own in self.groups.items() if "lr" in own}

    def _grouped(self, params: Mapping[str, Tensor]) -> tuple[Group, ...]:
        """Return the parameter groups: first what no pattern matches, then one for each pattern."""
        of: dict[str, str] = {}
        for pattern in self.groups:
            for name in matching(params, (pattern,), "groups"):
                if name in of:
                    raise ConfigError(
                        f"The parameter {name} is matched by two patterns of groups: {of[name]!r} and {pattern!r}. "
                        f"Each parameter is in one group: let one of the two match less."
                    )
                of[name] = pattern
        if not self.groups:
            return ()
        rest = Group({name: param for name, param in params.items() if name not in of}, {})
        named = [
            Group({name: param for name, param in params.items() if of.get(name) == pattern}, own)
            for pattern, own in self.groups.items()
        ]
        return (*([rest] if rest.params else []), *named)


def group_lrs_at(optimizers: Mapping[str, OptimizerRule], step: int) -> dict[str, float]:
    """Return the learning rates at a step of groups that have their own, by pattern.

    Of several objectives each one's own rate is there too, by its name, which also stands before its patterns.
    """
    if len(optimizers) == 1:
        return next(iter(optimizers.values())).group_lrs_at(step)
    found: dict[str, float] = {}
    for name, one in optimizers.items():
        found |= {name: one.lr_at(step), **{f"{name}.{key}": lr for key, lr in one.group_lrs_at(step).items()}}
    return found


def matching(params: Mapping[str, Tensor], patterns: Sequence[str], where: str = "params") -> dict[str, Tensor]:
    """Return the parameters whose names match one of the patterns. Raises `ConfigError` for one that matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in params):
            raise ConfigError(f"{where} has {pattern!r}, which matches no parameter.{meant(pattern, _choices(params))}")
    return {name: one for name, one in params.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _choices(params: Mapping[str, Tensor]) -> list[str]:
    """Return what patterns there may be: the parameters' names, and those of the modules around them with `.*`."""
    parts = [name.split(".") for name in params]
    around = {".".join(part[:depth]) + ".*" for part in parts for depth in range(1, len(part))}
    return [*params, *around]


def _rate_at(lr: Hyper, step: int) -> float:
    rate = lr(step) if is_schedule(lr) else lr
    return float(rate) if isinstance(rate, (int, float)) else math.nan


def _said(value: Hyper) -> str:
    return function_name(value) if is_schedule(value) else repr(value)


def optimizer(
    optim_class: Callable[..., torch.optim.Optimizer],
    *,
    params: str | Sequence[str] = "*",
    groups: Mapping[str, Mapping[str, Hyper]] = FrozenMapping(),
    **hyperparameters: Hyper,
) -> OptimizerRule:
    """Return the rule that is a torch optimizer, made by `optim_class` from parameters and `hyperparameters`.

    Args:
        optim_class: a class of torch.optim, a partial of one, a function of (params, ...) that returns an optimizer.
        params: which parameters it trains, by patterns of names as `fnmatch` reads them: `"head.*"`, or a list.
        groups: by pattern, hyperparameters of a parameter group's own: `{"backbone.*": {"lr": 0.1}}`. Here `lr` is
            the group's rate itself, and not a factor.
        hyperparameters: as the class takes them (`lr`, `weight_decay`, `betas` ...), each a value or a function of the
            step (0, 1, ...) that returns one.

    Raises `ConfigError` for what cannot be meant; where a pattern matches no parameter, or two patterns of `groups` the
    same one, when the learner makes its model.
    """
    patterns = (params,) if isinstance(params, str) else params
    if not (isinstance(patterns, Sequence) and patterns and all(isinstance(one, str) for one in patterns)):
        raise ConfigError(f"params is {params!r:.80}; expected a pattern of names like 'head.*', or a list of them.")
    if not (isinstance(groups, Mapping) and all(isinstance(own, Mapping) for own in groups.values())):
        raise ConfigError(
            f"groups is {groups!r:.80}; expected patterns of names, like {{'backbone.*': {{'lr': 0.1}}}}."
        )
    own = FrozenMapping({str(pattern): FrozenMapping(given) for pattern, given in groups.items()})
    return OptimizerRule(optim_class, tuple(patterns), own, FrozenMapping(hyperparameters))
