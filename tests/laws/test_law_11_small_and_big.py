"""Law 11, small and big steps agree: folding `advance` visits the states of `fit_step`.

And two learners advanced in turns end as they would alone.
"""

from __future__ import annotations

import copy
from itertools import cycle

import torch
from hypothesis import given
from hypothesis import strategies as st

from nntrain import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Subscriber,
    TrainState,
    Transition,
    advance,
    epoch_step,
    fit_step,
)
from nntrain.machine.folding import with_goal
from nntrain.machine.table import TABLE
from nntrain.subscribers.protocol import AnswerBatch, AnswerEpoch
from tests.laws.strategies import ALL_SETS, Batch, Setup, finish, setups


class CancelsAt(Subscriber[Batch]):
    """A pure function of the place: cancels what it was made with, there."""

    def __init__(self, epoch: int, batch: int, scope: str) -> None:
        self.place = (epoch, batch)
        self.scope = scope

    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        if (state.progress.epoch, state.progress.batch) != self.place:
            return state
        match self.scope:
            case "batch":
                return CancelBatch(reason="here")
            case "epoch":
                return CancelEpoch(reason="here")
            case _:
                return CancelFit(reason="here")

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        if state.progress.epoch == self.place[0] and self.scope == "whole epoch":
            return CancelEpoch(reason="here")
        return state


cancels = st.lists(
    st.builds(
        CancelsAt, st.integers(0, 2), st.integers(0, 3), st.sampled_from(["batch", "epoch", "whole epoch", "fit"])
    ),
    max_size=2,
)


@given(
    setup=setups(sets=ALL_SETS),
    seed=st.integers(0, 5),
    epochs=st.integers(1, 3),
    steps=st.sampled_from([None, None, 1, 4]),
    subs=cancels,
)
def test_folding_advance_visits_the_states_of_fit_step(
    device: torch.device, setup: Setup, seed: int, epochs: int, steps: int | None, subs: list[CancelsAt]
) -> None:
    goal = (epochs, None) if steps is None else (None, steps)
    told: list[TrainState] = []
    places: list[tuple[str, str]] = []

    def sink(transition: Transition) -> None:
        told.append(copy.deepcopy(transition.state))
        places.append((transition.at, transition.state.progress.at))

    big = setup.learner(subs, [sink], device)
    outcome = fit_step(big, big.init(seed), goal[0], steps=goal[1])
    small = setup.learner(subs, device=device)
    states = finish(small, with_goal(small.init(seed), *goal))
    assert states == told
    assert outcome.state == states[-1]
    for at, after in places:
        assert after in TABLE[at].values(), (at, after)  # type: ignore[index] # places as plain strings


@given(setup=setups(sets=ALL_SETS), seed=st.integers(0, 5), epochs=st.integers(1, 2), subs=cancels)
def test_folding_epoch_step_ends_as_fit_step(setup: Setup, seed: int, epochs: int, subs: list[CancelsAt]) -> None:
    """Before and after the fit by `advance`, the phases in between by `epoch_step`."""
    learner = setup.learner(subs)
    whole = fit_step(learner, learner.init(seed), epochs)
    state = advance(learner, learner.init(seed, epochs=epochs)).state
    phases = 0
    while state.progress.at == "before_epoch":
        state = epoch_step(learner, state).state
        phases += 1
    assert phases <= 3 * epochs
    if state.progress.at == "after_fit":
        state = advance(learner, state).state
    assert state == whole.state


@given(
    one=setups(),
    other=setups(),
    seeds=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    turns=st.lists(st.integers(0, 1), min_size=2, max_size=12).filter(lambda turns: len(set(turns)) == 2),
)
def test_two_learners_in_turns_end_as_alone(one: Setup, other: Setup, seeds: tuple[int, int], turns: list[int]) -> None:
    learners = [one.learner(), other.learner()]
    alone = [
        fit_step(setup.learner(), setup.learner().init(seed), 2).state
        for setup, seed in zip((one, other), seeds, strict=True)
    ]
    states = [learner.init(seed, epochs=2) for learner, seed in zip(learners, seeds, strict=True)]
    for turn in cycle(turns):
        if all(state.progress.at == "finished" for state in states):
            break
        if states[turn].progress.at != "finished":
            states[turn] = advance(learners[turn], states[turn]).state
    assert states == alone
