"""What a sink wants stands in one record, read once: anything else that says so is refused, and never ignored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nntrain import DataLoaders, Interest, Learner, TrainState, Transition, accuracy, advance, epoch_step, fit_step
from nntrain.errors import ConfigError
from nntrain.sinks.interest import EVERYTHING, interest_of

DATA = [(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))] * 2


class Sink:
    """Whatever it is given as attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __call__(self, transition: Transition, /) -> None: ...


def learner_of(sink: Any) -> Learner[Any]:
    dls = DataLoaders(DATA, DATA)
    return Learner(nn.Linear(3, 2), dls, nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.1, sinks=[sink])


@pytest.mark.parametrize("name", ["places", "every_batch", "wants", "batches", "strict", "tells", "last_words"])
def test_an_attribute_that_said_so_before_is_refused_with_what_to_write(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"The sink Sink has {name}\. .* interest = Interest\({name}=\.\.\.\)"):
        learner_of(Sink(**{name: False}))
    learner_of(Sink(**{name: False}, interest=Interest()))  # its own business


@pytest.mark.parametrize("interest", [{"strict": True}, Interest, "all"])
def test_what_is_no_interest_is_refused(interest: Any) -> None:
    with pytest.raises(ConfigError, match=r"The sink Sink has interest .*; expected one like Interest\(strict=True\)"):
        learner_of(Sink(interest=interest))


def test_one_without_an_interest_wants_everything() -> None:
    told: list[Transition] = []
    assert interest_of(Sink()) is interest_of(told.append) is EVERYTHING == Interest()
    learner_of(told.append).fit(1, print_stats=False)
    assert len([one for one in told if one.at == "batch"]) == 6


def test_what_a_check_raises_ends_the_step_before_anything_is_done() -> None:
    class Checks:
        def __init__(self) -> None:
            self.told: list[Transition] = []
            self.interest = Interest(check=self.check)

        def __call__(self, transition: Transition, /) -> None:
            self.told.append(transition)

        def check(self, state: TrainState) -> None:
            if state.progress.epochs > 1:
                raise ValueError("one is enough")

    sink = Checks()
    learner = learner_of(sink)
    for step in (fit_step, advance, epoch_step):
        with pytest.raises(ValueError, match="one is enough"):
            step(learner, learner.init(epochs=2))
    assert not sink.told
    assert len(learner.fit(1, print_stats=False).state.history) == 2
    assert sink.told
