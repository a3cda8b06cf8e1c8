"""Law 5, branch: two continuations of one state do not see each other."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nntrain import TrainState, advance, batch_step, fit_step
from tests.laws.strategies import Batch, Kept, Setup, finish, setups


def ahead(setup: Setup, transitions: int) -> TrainState:
    """Give a state some transitions into a fit; the last batches of short fits are not passed."""
    learner = setup.learner()
    state = learner.init(1, epochs=2)
    for _ in range(transitions):
        state = advance(learner, state).state
    return state


def other_batch(setup: Setup) -> Batch:
    """Give a batch that is none of the data's."""
    inputs, target = setup.batches("train")[0]
    return -2.0 * inputs, (target + 1) % 3


@given(setup=setups(), transitions=st.integers(2, 3), turns=st.lists(st.booleans(), max_size=30))
def test_two_branches_in_turns_on_one_learner(
    device: torch.device, setup: Setup, transitions: int, turns: list[bool]
) -> None:
    setup = setup.on(device)
    trunk = ahead(setup, transitions)
    kept = Kept(trunk)
    alone = setup.learner()
    left_alone = finish(alone, copy.deepcopy(trunk))[-1]
    right_alone = finish(alone, batch_step(alone, copy.deepcopy(trunk), other_batch(setup)).state)[-1]
    assert left_alone != right_alone

    learner = setup.learner()
    left, right = trunk, batch_step(learner, trunk, other_batch(setup)).state
    for turn in turns:
        if turn and left.progress.at != "finished":
            left = advance(learner, left).state
        elif not turn and right.progress.at != "finished":
            right = advance(learner, right).state
    for state, ends in ((left, left_alone), (right, right_alone)):
        assert (state if state.progress.at == "finished" else fit_step(learner, state).state) == ends
    kept.check()


@pytest.mark.sweep
@given(setup=setups(), transitions=st.integers(0, 3), epochs=st.integers(1, 2))
def test_a_branch_by_another_learner(device: torch.device, setup: Setup, transitions: int, epochs: int) -> None:
    """Another learning rate, subscribers or none: the trunk's own learner goes on as if nothing had been."""
    setup = setup.on(device)
    learner = setup.learner()
    trunk = ahead(setup, transitions)
    straight = fit_step(setup.learner(), copy.deepcopy(trunk), epochs)
    kept = Kept(trunk)
    hotter = replace(setup, lr=setup.lr * 3).learner()
    branch = fit_step(hotter, trunk, epochs)
    branch_kept = Kept(branch.state)
    assert fit_step(learner, trunk, epochs) == straight
    assert dict(hotter.init(0).params).keys() == dict(trunk.params).keys()
    kept.check()
    branch_kept.check()


@given(setup=setups(), back=st.integers(0, 20))
def test_going_back_and_on_again(device: torch.device, setup: Setup, back: int) -> None:
    """Any state of a finished fit, stepped once more by the same learner, leads to the next one of that fit."""
    setup = setup.on(device)
    learner = setup.learner()
    states = [learner.init(0, epochs=1)]
    while states[-1].progress.at != "finished":
        states.append(advance(learner, states[-1]).state)
    twins = copy.deepcopy(states)
    index = back % (len(states) - 1)
    assert advance(learner, states[index]).state == twins[index + 1]
    assert states == twins
