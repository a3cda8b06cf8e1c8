"""Law 2, determinism: the same learner, state and batch give bit-equal outcomes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nntrain import Learner, Outcome, TrainState, advance, batch_step, epoch_step, fit_step
from tests.laws.strategies import Batch, Rolls, Setup, finish, setups

Step = Callable[[Learner[Batch], TrainState, Batch], Outcome]
STEPS: Final[dict[str, Step]] = {
    "advance": lambda learner, state, batch: advance(learner, state),
    "batch_step": batch_step,
    "epoch_step": lambda learner, state, batch: epoch_step(learner, state),
    "fit_step": lambda learner, state, batch: fit_step(learner, state),
}


def stir() -> None:
    """Move the caller's generators, which a training may not read."""
    torch.rand(3)
    random.random()
    np.random.rand(3)


@given(
    setup=setups(),
    seed=st.integers(0, 5),
    ahead=st.integers(0, 9),
    kind=st.sampled_from(sorted(STEPS)),
    which=st.integers(0, 3),
)
def test_the_same_step_twice(
    device: torch.device, setup: Setup, seed: int, ahead: int, *, kind: str, which: int
) -> None:
    learner, other = setup.learner([Rolls()], device=device), setup.learner([Rolls()], device=device)
    state = learner.init(seed, epochs=2)
    for _ in range(ahead):
        if state.progress.at != "finished":
            state = advance(learner, state).state
    if state.progress.at == "finished" or (kind == "batch_step" and state.progress.at in {"after_epoch", "after_fit"}):
        return
    step = STEPS[kind]
    batches = setup.batches("train")
    batch = batches[which % len(batches)]
    first = step(learner, state, batch)
    stir()
    assert step(learner, state, batch) == first
    stir()
    assert step(other, state, batch) == first


@given(setup=setups(), seed=st.integers(0, 5))
def test_two_learners_and_two_fits(device: torch.device, setup: Setup, seed: int) -> None:
    learner = setup.learner(device=device)
    first = learner.fit(2, seed=seed, print_stats=False)
    stir()
    assert learner.fit(2, seed=seed, print_stats=False) == first
    assert setup.learner(device=device).fit(2, seed=seed, print_stats=False) == first


def test_the_seed_rules_the_noise() -> None:
    setup = Setup(model="dropout")
    learner = setup.learner()
    assert learner.fit(1, seed=0, print_stats=False) != learner.fit(1, seed=1, print_stats=False)


def test_no_step_draws_the_noise_of_another() -> None:
    """The dropout of each step is its own: equal batches and no learning, yet no two losses are equal."""
    setup = Setup(model="dropout", optimizer="sgd", lr=0.0, train=(6,), valid=(6,))
    learner = setup.learner()
    state = learner.init(0, epochs=8)
    losses = [one.history[-1].loss for one in finish(learner, state) if one.progress.at == "after_epoch"]
    trained, evaluated = losses[::2], losses[1::2]
    assert len(set(trained)) == 8
    assert len(set(evaluated)) == 1
