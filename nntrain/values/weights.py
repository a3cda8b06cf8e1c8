"""Weights that a state is given, and the averages of weights that it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.values.calls import meant
from nntrain.values.shards import laid_out_as, own_part
from nntrain.values.tensors import Snapshot
from nntrain.values.trees import described


def averages_of(snapshot: Snapshot, rule: str) -> Mapping[str, Tensor]:
    """Return the weights that an update rule keeps under "weights"; those of several objectives by its name together.

    Raises `ConfigError` where there are none.
    """
    kept = {name: memory["weights"] for name, memory in snapshot.optim.rules.items() if "weights" in memory}
    found = [name for name in kept if name == rule or name.endswith(f".{rule}")]  # "ema" is also "maker.ema"
    if not found:
        there = meant(str(rule), kept) or " The learner has no rule that keeps any: chain(optimizer(...), ema(0.999))."
        raise ConfigError(f"weights is {rule!r}; expected the name of an update rule that keeps an average.{there}")
    if any(snapshot.optim.rules[name].get("averaged") == 0 for name in found):
        raise ConfigError(f"weights is {rule!r}, which has averaged nothing yet: its first step is still to come.")
    return averages_in(snapshot, found)


def averages_in(snapshot: Snapshot, rules: Iterable[str]) -> dict[str, Tensor]:
    """Return the weights that the update rules of such names keep, as far as there are any yet."""
    found: dict[str, Tensor] = {}
    for rule in rules:
        found |= snapshot.optim.rules.get(rule, {}).get("weights", {})
    return found


def checked_params(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of `given` where `own` are. Raises `ConfigError` for what cannot take their place."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"with_params takes a mapping of names to tensors; got {described(given)}.")
    lacking = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    if lacking or unknown:
        said = [f"missing {name}" for name in lacking] + [f"unexpected {name}.{meant(name, own)}" for name in unknown]
        raise ConfigError(
            "with_params takes all the parameters, and nothing else:\n  "
            + "\n  ".join(said)
            + "\nTo change some of them: state.with_params({**state.params, **mine})."
        )
    found: dict[str, Tensor] = {}
    for name, mine in own.items():
        theirs: object = given[name]
        if not isinstance(theirs, Tensor) or theirs.shape != mine.shape or theirs.dtype != mine.dtype:
            raise ConfigError(f"with_params was given {described(theirs)} for {name}; expected {described(mine)}.")
        theirs = laid_out_as(theirs.detach(), mine)
        found[name] = torch.empty_like(mine)
        own_part(found[name]).copy_(own_part(theirs))
        if not bool(torch.isfinite(found[name]).all()) and bool(torch.isfinite(mine).all()):
            raise ConfigError(f"with_params was given values for {name} that are not finite.")
    return found
