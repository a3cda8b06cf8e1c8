"""Several that write over one set of parameters, each over its own, with one memory: `OptimState`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import Gradients
from nntrain.update.torch_optimizer import Compiled, LiveOptimizer
from nntrain.update.torch_rule import OptimizerRule
from nntrain.values.tensors import OptimState


class _Part(Protocol):
    """One of them."""

    @property
    def kind(self) -> str: ...
    @property
    def fresh(self) -> OptimState: ...
    @property
    def trained(self) -> Mapping[str, Tensor]: ...
    @property
    def rules(self) -> tuple[str, ...]: ...
    @property
    def generation(self) -> int: ...
    @property
    def hooked(self) -> bool: ...
    def read(self, change: Callable[[Any], Any], /) -> OptimState: ...
    def bring_in(self, optim: OptimState, device: torch.device, /) -> None: ...


OnePart = TypeVar("OnePart", bound=_Part)


class Together(Generic[OnePart]):
    """Parts by their names, as one.

    In the memory the parameters are told apart by their names, the groups by their order, the rest by the parts' names.
    """

    def __init__(self, parts: Mapping[str, OnePart], what: str, names: Mapping[str, str]) -> None:
        """`what` they are, in the singular; `names` are what they are called in messages."""
        self._parts: Mapping[str, OnePart] = parts
        owner: dict[str, str] = {}
        for name, part in parts.items():
            for param in part.trained:
                if param in owner:
                    raise ConfigError(
                        f"The parameter {param} is trained by two {what}s, {names[owner[param]]} and {names[name]}. "
                        f"Each has its own: optimizer(..., params='{param.split('.')[0]}.*')."
                    )
                owner[param] = name
        self.trained: Mapping[str, Tensor] = {
            name: one for part in parts.values() for name, one in part.trained.items()
        }
        """The parameters that they write, by name."""
        self.rules: tuple[str, ...] = tuple(f"{name}.{rule}" for name, one in parts.items() for rule in one.rules)
        """The names of the rules around the optimizers."""
        self.kind: str = ", ".join(f"{name}: {part.kind}" for name, part in parts.items())
        self.fresh: OptimState = self._joined({name: part.fresh for name, part in parts.items()})

    @property
    def generation(self) -> int:
        """Grows whenever the memory may have come to lie elsewhere."""
        return sum(part.generation for part in self._parts.values())

    @property
    def hooked(self) -> bool:
        """Whether a hook, the profiler or a replaced method is to see each step."""
        return any(part.hooked for part in self._parts.values())

    def read(self, change: Callable[[Any], Any]) -> OptimState:
        """Return the memory, each part of it as `change` returns it: a copy, or the live one."""
        return self._joined({name: part.read(change) for name, part in self._parts.items()})

    def _joined(self, states: Mapping[str, OptimState]) -> OptimState:
        return OptimState(
            self.kind,
            {param: kept for one in states.values() for param, kept in one.state.items()},
            tuple(group for one in states.values() for group in one.groups),
            tuple(group for one in states.values() for group in one.options),
            {name: one.attributes for name, one in states.items() if one.attributes},
            {f"{name}.{rule}": kept for name, one in states.items() for rule, kept in one.rules.items()},
        )

    def bring_in(self, optim: OptimState, device: torch.device) -> None:
        """Make the memory what `optim` says; that of other parts, or of other classes, is begun anew."""
        if optim.kind != self.kind:
            optim = self.fresh
        first = 0
        for name, part in self._parts.items():
            count = len(part.fresh.groups)
            own = OptimState(
                part.kind,
                {param: kept for param, kept in optim.state.items() if param in part.trained},
                optim.groups[first : first + count],
                optim.options[first : first + count],
                optim.attributes.get(name, {}),
                {rule: optim.rules[f"{name}.{rule}"] for rule in part.rules if f"{name}.{rule}" in optim.rules},
            )
            part.bring_in(own, device)
            first += count


class LiveOptimizers(Together[LiveOptimizer]):
    """The optimizers of one chain, which write one after the other what one backward pass came to."""

    needs_closure: Final = False

    def __init__(self, rules: Sequence[OptimizerRule], params: Mapping[str, Tensor], compiled: Compiled | None) -> None:
        parts = {str(index): rule.live(params, compiled) for index, rule in enumerate(rules)}
        super().__init__(parts, "optimizer", {str(index): repr(rule) for index, rule in enumerate(rules)})
        for part in parts.values():
            if part.needs_closure:
                raise ConfigError(
                    f"{part.kind} evaluates the model itself, as often as it likes: it is the only optimizer of its "
                    f"chain. Let it train all parameters, or take another."
                )
        self.untouched: bool = False
        """Of a step that failed: whether nothing had been written yet."""

    def give(self, gradients: Gradients) -> None:
        """Set the gradients of the parameters."""
        for part in self._parts.values():
            part.give(gradients)

    def step(self, number: int, scale: float, closure: Callable[[], Tensor] | None) -> None:
        """Write the parameters, as step `number`."""
        self.untouched = True
        for part in self._parts.values():
            try:
                part.step(number, scale, closure)
            except BaseException:
                self.untouched = self.untouched and part.untouched
                raise
            self.untouched = False


def live_optimizer(
    rules: Sequence[OptimizerRule], params: Mapping[str, Tensor], compiled: Compiled | None
) -> LiveOptimizer | LiveOptimizers:
    """Return the optimizer that a chain has, or all of them as one."""
    return rules[0].live(params, compiled) if len(rules) == 1 else LiveOptimizers(rules, params, compiled)
