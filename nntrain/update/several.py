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
from nntrain.update.together import Together
from nntrain.update.torch_optimizer import Compiled
from nntrain.values.sums import Weight


class LiveSeveral(Together[Live]):
    """The rules of several objectives, by their names. To the workspace it is what a `LiveUpdate` is.

    `step` is the last one's; the others `write` before it, within the batch.
    """

    window: Final = 1
    collected: Final = 0
    scales_loss: Final = False
    needs_closure: Final = False
    evaluates_apart: Final = False

    def __init__(
        self, rules: Mapping[str, UpdateRule], params: Mapping[str, Tensor], compiled: Compiled | None
    ) -> None:
        parts = {name: live_update(rule, params, compiled) for name, rule in rules.items()}
        for name, part in parts.items():
            why = "evaluates the model itself" if part.needs_closure else "makes a step of several batches"
            if part.needs_closure or part.window > 1:
                raise ConfigError(
                    f"The update of objective {name!r} {why}; with several objectives each writes once a batch."
                )
        super().__init__(parts, "objective", {name: repr(name) for name in parts})
        self._last = parts[list(rules)[-1]]
        self.tells: bool = any(part.tells for part in parts.values())
        """Whether `take_told` returns anything."""
        self.eval_weights: tuple[str, ...] = tuple(
            f"{name}.{rule}" for name, part in parts.items() for rule in part.eval_weights
        )
        """The rules whose averages eval has in the place of the parameters."""

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

    def loss(self, loss: Tensor, /) -> Tensor:
        """Return the loss to go backward from."""
        return loss

    # -- stepping -------------------------------------------------------------------------------------------------

    def write(self, name: str, number: int, scale: float, weight: Weight | None, bits: int) -> None:
        """Let one objective's rule write its step `number`."""
        self._parts[name].step(number, scale, None, None, weight, bits=bits)

    def step(
        self,
        number: int,
        scale: float,
        closure: Callable[[], Tensor] | None,  # noqa: ARG002 - none of them asks for one
        through: Callable[[Callable[[], None]], None] | None = None,
        weight: Weight | None = 1,
        *,
        bits: int = 0,
    ) -> None:
        """Let the last one's rule write its step `number`."""
        self._last.step(number, scale, None, through, weight, bits=bits)

    def take_told(self) -> dict[str, Tensor | float]:
        """Return what the rules tell of their last writes, by the objectives' names and their own."""
        return {f"{name}.{what}": one for name, part in self._parts.items() for what, one in part.take_told().items()}

    # -- recording ------------------------------------------------------------------------------------------------

    def unrecordable(self, device: torch.device) -> str | None:  # noqa: ARG002 - on any
        """Return why a step cannot be recorded."""
        return "several objectives write one after the other"
