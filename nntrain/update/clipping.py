"""Rules that bound the gradients: by their common norm, or each element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, Gradients
from nntrain.values.numbers import is_number
from nntrain.values.shards import any_sharded, norms, own_parts


def _check_bound(rule: str, most: object) -> None:
    if not (is_number(most) and most > 0):
        raise ConfigError(f"{rule} takes the most that is let through, a finite number above 0; got {most!r:.80}.")


@dataclass(frozen=True)
class ClipNorm:
    """What `clip_norm` returns."""

    name: ClassVar[str] = "clip_norm"
    most: float

    def __post_init__(self) -> None:
        _check_bound("clip_norm", self.most)

    def __repr__(self) -> str:
        return f"clip_norm({self.most})"

    def bind(self, params: dict[str, Tensor], /) -> BoundClipNorm:  # noqa: ARG002 - it looks at gradients alone
        """Return the rule over live parameters."""
        return BoundClipNorm(float(self.most))


class BoundClipNorm(Bound):
    """Scales all gradients down to a norm."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.told: dict[str, Tensor] = {}
        self._most = most

    def write(self, gradients: Gradients, at: At, /) -> bool:  # noqa: ARG002 - at any step
        """Scale the gradients, with no wait for a device."""
        if gradients:
            found = list(gradients.values())
            norm = total_norm(found)
            self.told = {"grad_norm": norm}
            torch._foreach_mul_(own_parts(found), torch.clamp(self._most / (norm + 1e-6), max=1.0))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        return True


def total_norm(found: list[Tensor]) -> Tensor:
    """Return the 2-norm of all, as torch's own function does, less its grouping where there is one device and type.

    Of sharded ones it is that of the whole, with one sum over the ranks.
    """
    first = found[0]
    kinds = {(type(one), one.layout, one.dtype, one.device) for one in found}
    if kinds != {(Tensor, torch.strided, first.dtype, first.device)}:
        if any_sharded(found):
            of_whole: Tensor = torch.linalg.vector_norm(torch.stack(norms(found)))
            return of_whole
        return torch.nn.utils.get_total_norm(found)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(found)))  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
    return norm


def clip_norm(most: float) -> ClipNorm:
    """Return a rule that scales the gradients down where their common 2-norm is greater than `most`.

    It tells that norm, before it is scaled: `output.told["grad_norm"]` to sinks, and `grad_norm` in the log. The bits
    are those of `torch.nn.utils.clip_grad_norm_`. Raises `ConfigError` for what is no number above 0.
    """
    return ClipNorm(most)


@dataclass(frozen=True)
class ClipValue:
    """What `clip_value` returns."""

    name: ClassVar[str] = "clip_value"
    most: float

    def __post_init__(self) -> None:
        _check_bound("clip_value", self.most)

    def __repr__(self) -> str:
        return f"clip_value({self.most})"

    def bind(self, params: dict[str, Tensor], /) -> BoundClipValue:  # noqa: ARG002 - it looks at gradients alone
        """Return the rule over live parameters."""
        return BoundClipValue(float(self.most))


class BoundClipValue(Bound):
    """Bounds each element of the gradients."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self._most = most

    def write(self, gradients: Gradients, at: At, /) -> bool:  # noqa: ARG002 - at any step
        """Bound the gradients."""
        if gradients:
            found = own_parts(gradients.values())
            torch._foreach_clamp_min_(found, -self._most)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
            torch._foreach_clamp_max_(found, self._most)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        return True


def clip_value(most: float) -> ClipValue:
    """Return a rule that bounds each element of the gradients, to between -`most` and `most`.

    The bits are those of `torch.nn.utils.clip_grad_value_`. Raises `ConfigError` for what is no number above 0.
    """
    return ClipValue(most)
