"""The rule that leaves parameters as they are for some steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.update.rule import At, Bound, BoundRule, Gradients
from nntrain.update.torch_rule import matching
from nntrain.values.numbers import is_count


@dataclass(frozen=True)
class Freeze:
    """What `freeze` returns."""

    name: ClassVar[str] = "freeze"
    patterns: tuple[str, ...]
    until: int | None
    start: int

    def __post_init__(self) -> None:
        for name, value in (("until", self.until), ("start", self.start)):
            if value is not None and not is_count(value, 0):
                raise ConfigError(f"freeze: {name} is {value!r:.80}; expected a step, a whole number from 0.")
        if self.until is not None and self.until <= self.start:
            raise ConfigError(
                f"freeze: until is {self.until}, and start {self.start}; expected a step after it: nothing is frozen."
            )

    def __repr__(self) -> str:
        said = f", start={self.start}" if self.start else ""
        return f"freeze({list(self.patterns)}, until={self.until}{said})"

    def holds(self, step: int) -> bool:
        """Return whether it freezes at a step."""
        return step >= self.start and (self.until is None or step < self.until)

    def bind(self, params: dict[str, Tensor], /) -> BoundFreeze:
        """Return the rule over live parameters. Raises `ConfigError` where a pattern matches none."""
        return BoundFreeze(frozenset(matching(params, self.patterns, "freeze")), self)


class BoundFreeze(Bound):
    """Drops gradients."""

    def __init__(self, names: frozenset[str], rule: Freeze) -> None:
        super().__init__()
        self.names = names
        self.rule = rule

    def write(self, gradients: Gradients, at: At, /) -> bool:
        """Drop the gradients of what is frozen at this step."""
        if self.rule.holds(at.step):
            for name in self.names:
                gradients.pop(name, None)
        return True


def check_some_trained(rules: Iterable[BoundRule], params: Mapping[str, Tensor]) -> None:
    """Raise `ConfigError` where rules freeze all parameters at some step: nothing would be written."""
    frozen = [one for one in rules if isinstance(one, BoundFreeze)]
    for step in sorted({one.rule.start for one in frozen}):
        holding = [one for one in frozen if one.rule.holds(step)]
        if frozenset[str]().union(*(one.names for one in holding)) >= params.keys():
            raise ConfigError(
                f"At step {step} all that is trained is frozen, by {', '.join(repr(one.rule) for one in holding)}: "
                f"nothing would be written. Let one of them match less, or end before."
            )


def freeze(patterns: str | Sequence[str], *, until: int | None = None, start: int = 0) -> Freeze:
    """Return a rule that freezes the parameters whose names match, from step `start` until before step `until`.

    Their gradients are dropped: the rules after it do not see them, and the optimizer leaves these parameters and what
    it remembers of them untouched, without weight decay or momentum, as where `grad` is None. Several of these unfreeze
    a model gradually: `chain(freeze("0.*", until=200), freeze("1.*", until=100), optimizer(...))`. It is a function of
    the step alone (`progress.step`), and remembers nothing. `until` is never with None. The backward pass computes the
    gradients all the same. Raises `ConfigError` for steps that cannot be meant; for a pattern that matches nothing, and
    where all that is trained is frozen at some step, when the learner makes its model.
    """
    given = (patterns,) if isinstance(patterns, str) else patterns
    if not (isinstance(given, Sequence) and given and all(isinstance(one, str) for one in given)):
        raise ConfigError(f"freeze takes a pattern of names like 'body.*', or a list of them; got {patterns!r:.80}.")
    return Freeze(tuple(given), until, start)
