"""Several update rules over one set of parameters, each over its own, that write one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.chaining import live_update
from nntrain.update.live_update import Live
from nntrain.update.rule import UpdateRule
from nntrain.update.torch_optimizer import Compiled
from nntrain.values.sums import Weight
from nntrain.values.tensors import OptimState


class LiveSeveral:
    """The rules of several objectives, by their names. To the workspace it is what a `LiveUpdate` is.

    `step` is the last one's; the others `write` before it, within the batch. The memories are one `OptimState`: the
    parameters are told apart by their names, the groups by their order, the rest by the objectives' names.
    """

    window: Final = 1
    collected: Final = 0
    scales_loss: Final = False
    needs_closure: Final = False

    def __init__(
        self, rules: Mapping[str, UpdateRule], params: Mapping[str, Tensor], compiled: Compiled | None
    ) -> None:
        self._parts: dict[str, Live] = {name: live_update(rule, params, compiled) for name, rule in rules.items()}
        self._last = self._parts[list(rules)[-1]]
        owner: dict[str, str] = {}
        for name, part in self._parts.items():
            why = "evaluates the model itself" if part.needs_closure else "makes a step of several batches"
            if part.needs_closure or part.window > 1:
                raise ConfigError(
                    f"The update of objective {name!r} {why}; with several objectives each writes once a batch."
                )
            for param in part.trained:
                if param in owner:
                    raise ConfigError(
                        f"The parameter {param} is trained by two objectives, {owner[param]!r} and {name!r}. Each has "
                        f"its own: optimizer(..., params='{param.split('.')[0]}.*')."
                    )
                owner[param] = name
        self.trained: dict[str, Tensor] = {name: params[name] for name in owner}
        self.rules: tuple[str, ...] = tuple(f"{name}.{rule}" for name, one in self._parts.items() for rule in one.rules)
        """The names of the rules around the optimizers."""
        self.tells: bool = any(part.tells for part in self._parts.values())
        """Whether `take_told` returns anything."""
        self.kind: str = ", ".join(f"{name}: {part.kind}" for name, part in self._parts.items())
        self.fresh: OptimState = self._joined({name: part.fresh for name, part in self._parts.items()})

    @property
    def parts(self) -> Mapping[str, Live]:
        """The rules over live parameters, by the objectives' names."""
        return self._parts

    @property
    def memory(self) -> dict[str, Any]:
        """What the rules around the optimizers remember, live, by their names."""
        return {
            f"{name}.{rule}": kept
            for name, part in self._parts.items()
            for rule, kept in (part.memory.items() if part.rules else ())
        }

    @property
    def untouched(self) -> bool:
        """Of a step that failed: whether the last one had written nothing yet."""
        return self._last.untouched

    @property
    def generation(self) -> int:
        """Grows whenever the memory may have come to lie elsewhere."""
        return sum(part.generation for part in self._parts.values())

    def loss(self, loss: Tensor, /) -> Tensor:
        """Return the loss to go backward from."""
        return loss

    # -- memory ---------------------------------------------------------------------------------------------------

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
        """Make the memory what `optim` says; that of other objectives, or of other classes, is begun anew."""
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

    # -- stepping -------------------------------------------------------------------------------------------------

    def write(self, name: str, number: int, scale: float, weight: Weight | None) -> None:
        """Let one objective's rule write its step `number`."""
        self._parts[name].step(number, scale, None, None, weight)

    def step(
        self,
        number: int,
        scale: float,
        closure: Callable[[], Tensor] | None,  # noqa: ARG002 - none of them asks for one
        through: Callable[[Callable[[], None]], None] | None = None,
        weight: Weight | None = 1,
    ) -> None:
        """Let the last one's rule write its step `number`."""
        self._last.step(number, scale, None, through, weight)

    def take_told(self) -> dict[str, Tensor | float]:
        """Return what the rules tell of their last writes, by the objectives' names and their own."""
        return {f"{name}.{what}": one for name, part in self._parts.items() for what, one in part.take_told().items()}

    # -- recording ------------------------------------------------------------------------------------------------

    @property
    def hooked(self) -> bool:
        """Whether a hook, the profiler or a replaced method is to see each step."""
        return any(part.hooked for part in self._parts.values())

    def unrecordable(self, device: torch.device) -> str | None:  # noqa: ARG002 - on any
        """Return why a step cannot be recorded."""
        return "several objectives write one after the other"
