"""What sinks are shown: all, the places they ask for, or without the batches that merely ran."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import CancelBatch, DataLoaders, Learner, Subscriber, TrainState, Transition, accuracy, advance, fit_step
from nntrain.errors import ConfigError, NNTrainError

Batch = tuple[Tensor, Tensor]
DATA = [(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))] * 4


class Seen:
    """Remembers where it was told of what."""

    def __init__(self, **wishes: Any) -> None:
        self.transitions: list[tuple[str, str, int]] = []
        vars(self).update(wishes)

    def __call__(self, transition: Transition) -> None:
        place = transition.progress
        self.transitions.append((transition.at, place.phase, place.batch))


class Second(Subscriber[Batch]):
    """Cancels the second batch of each phase."""

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState | CancelBatch:
        return CancelBatch(reason="the second") if state.progress.batch == 1 else state


def learner_of(*sinks: Seen, subs: list[Subscriber[Batch]] | None = None) -> Learner[Batch]:
    return Learner(
        nn.Linear(3, 2),
        DataLoaders(DATA, DATA),
        nn.functional.cross_entropy,
        accuracy,
        torch.optim.SGD,
        0.1,
        subs or [],
        sinks=sinks,
    )


def batches_seen(seen: Seen) -> list[tuple[str, int]]:
    return [(phase, batch) for at, phase, batch in seen.transitions if at == "batch"]


EVERY = [(phase, batch) for phase in ("train", "eval") for batch in range(5)]
"""The fifth is the one that finds the end, with the phase's statistics."""


def test_a_sink_is_shown_every_batch_unless_it_says_otherwise() -> None:
    all_of_them, ends = Seen(), Seen(every_batch=False)
    learner_of(all_of_them, ends).fit(1, print_stats=False)
    assert batches_seen(all_of_them) == EVERY
    assert batches_seen(ends) == [("train", 4), ("eval", 4)]
    assert [one for one in all_of_them.transitions if one[0] != "batch"] == [
        one for one in ends.transitions if one[0] != "batch"
    ]


def test_a_cancelled_batch_is_shown_to_all() -> None:
    ends = Seen(every_batch=False)
    learner_of(ends, subs=[Second()]).fit(1, print_stats=False)
    assert batches_seen(ends) == [("train", 1), ("train", 4), ("eval", 1), ("eval", 4)]


def test_the_batch_that_a_step_begins_with_is_shown_to_all() -> None:
    """So that a log of a run that goes on amid a phase begins when the run does."""
    ends = Seen(every_batch=False)
    learner = learner_of(ends)
    state = learner.init(epochs=1)
    while state.progress.batch < 2:
        state = advance(learner, state).state
    ends.transitions.clear()
    fit_step(learner, state)
    assert batches_seen(ends) == [("train", 2), ("train", 4), ("eval", 4)]


def test_a_failure_is_shown_to_all_where_it_happened() -> None:
    ends = Seen(every_batch=False, places=frozenset({"after_fit"}))
    broken = [*DATA[:2], (torch.ones(2, 7), torch.zeros(2, dtype=torch.long))]
    learner = learner_of(ends).replace(dls=DataLoaders(broken, DATA))
    try:
        learner.fit(1, print_stats=False)
    except (RuntimeError, NNTrainError):
        assert ends.transitions == [("batch", "train", 2)]
    else:
        raise AssertionError("the third batch does not fit the model")


@pytest.mark.parametrize("places", [5, None, "batch", ["nowhere"]])
def test_places_that_are_none_are_refused_at_once(places: Any) -> None:
    with pytest.raises(ConfigError, match=r"The sink Seen has places .*; expected a set of some of before_fit"):
        learner_of(Seen(places=places))
