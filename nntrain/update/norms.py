"""The rule that tells the norms of gradients: of all, and of each layer or group of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, Gradients
from nntrain.update.torch_rule import matching
from nntrain.values.shards import any_sharded, norms


@dataclass(frozen=True)
class GradientNorms:
    """What `gradient_norms` returns."""

    name: ClassVar[str] = "gradient_norms"
    patterns: tuple[str, ...]

    def __repr__(self) -> str:
        return f"gradient_norms({', '.join(map(repr, self.patterns))})"

    def bind(self, params: dict[str, Tensor], /) -> BoundGradientNorms:
        """Return the rule over live parameters. Raises `ConfigError` where a pattern matches none."""
        if self.patterns:
            groups = {pattern: [*matching(params, (pattern,), "gradient_norms")] for pattern in self.patterns}
        else:
            groups = {}
            for name in params:
                groups.setdefault(name.rpartition(".")[0] or name, []).append(name)
        return BoundGradientNorms(groups, params)


class BoundGradientNorms(Bound):
    """Tells norms, and changes nothing."""

    def __init__(self, groups: Mapping[str, Sequence[str]], params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.told: dict[str, Tensor] = {}
        self._names = ["grad_norm", *(f"grad_norm/{group}" for group in groups)]
        members = [params.keys(), *map(frozenset, groups.values())]
        device = next(iter(params.values())).device
        self._belongs = torch.tensor([[name in group for name in params] for group in members], device=device)
        """Of all parameters, and of each group: whether each parameter is in it."""
        self._places = {name: at for at, name in enumerate(params)}
        self._none = torch.zeros((), device=device)

    def write(self, gradients: Gradients, at: At, /) -> bool:  # noqa: ARG002 - at any step
        """Tell the norms, with no wait for a device; a parameter without a gradient counts as one of 0."""
        each = [self._none] * len(self._places)
        for name, norm in zip(gradients, _norms([*gradients.values()]), strict=True):
            each[self._places[name]] = norm
        squares = torch.stack([norm.float() for norm in each]).square()
        found = torch.where(self._belongs, squares, 0.0).sum(1).sqrt()  # no product: 0 times infinity is NaN
        self.told = dict(zip(self._names, found.unbind(), strict=True))
        return True


def _norms(gradients: list[Tensor]) -> Sequence[Tensor]:
    """Return the 2-norm of each gradient."""
    if all(type(one) is Tensor and one.layout == torch.strided for one in gradients):
        return torch._foreach_norm(gradients) if gradients else ()  # pyright: ignore[reportPrivateImportUsage] # torch's fused one
    if any_sharded(gradients):
        return norms(gradients)
    return [torch.nn.utils.get_total_norm([one]) for one in gradients]


def gradient_norms(*patterns: str) -> GradientNorms:
    """Return a rule that tells the 2-norm of the gradients, and that of each group of parameters; it changes nothing.

    `gradient_norms("backbone.*", "head.*")` tells `grad_norm`, of all, `grad_norm/backbone.*` and `grad_norm/head.*`;
    without patterns each layer is a group, under its name. They are those of the place in the chain where it stands:
    before `clip_norm` and `accumulate`, those of each batch as they come. Sinks see them in `output.told`, the log has
    them beside the metrics of a batch, and `nntrain report` draws them. Raises `ConfigError` for what is no pattern;
    for one that matches nothing, when the learner makes its model.
    """
    if not all(isinstance(one, str) for one in patterns):
        raise ConfigError(f"gradient_norms takes patterns of names like 'body.*'; got {patterns!r:.80}.")
    if len({*patterns}) < len(patterns):
        raise ConfigError(f"gradient_norms has a pattern twice: {', '.join(map(repr, patterns))}.")
    return GradientNorms(patterns)
