"""A module whose own state is more than a state of a training holds is refused before it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import DataLoaders, Learner, accuracy
from nntrain.errors import ConfigError

BATCHES = [(torch.ones(2, 4), torch.tensor([0, 1]))]


def learner_of(model: Any) -> Learner[Any]:
    dls = DataLoaders(BATCHES, BATCHES)
    return Learner(model, dls, nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.1)


class Extra(nn.Linear):
    """Counts where torch's own protocol has it."""

    seen = 0

    def get_extra_state(self) -> object:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state


def hooked() -> nn.Module:
    model = nn.Linear(4, 2)
    register: Any = model.register_state_dict_post_hook
    register(lambda module, held, prefix, meta: held.update({f"{prefix}count": 3}))
    return model


@pytest.mark.parametrize("make", [lambda: nn.Sequential(Extra(4, 2)), hooked], ids=["extra_state", "hook"])
@pytest.mark.parametrize("factory", [False, True])
def test_what_only_torch_s_state_dict_would_hold_is_refused(make: Any, factory: bool) -> None:
    with pytest.raises(ConfigError, match=r"state_dict\(\) has (0\._extra_state|count) beside its parameters"):
        learner_of(make if factory else make()).init()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("passing", torch.zeros(1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.second(self.first(inputs))
        return scores


def renamed() -> nn.Module:
    model = nn.Linear(4, 2)
    register: Any = model.register_state_dict_post_hook
    register(lambda module, held, prefix, meta: held.update({f"{prefix}old_name": held[f"{prefix}weight"]}))
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tied(),
        renamed,
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)),
        lambda: torch.jit.script(nn.Linear(4, 2)),
    ],
    ids=["tied", "renamed", "parametrised", "scripted"],
)
def test_other_names_of_what_a_state_holds_are_no_more(make: Any) -> None:
    learner_of(make).init()
