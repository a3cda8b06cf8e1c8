"""Law 4, resume: a state kept anywhere, continued by a new learner, ends as if there had been no stop.

In memory here: the kept state is a deep copy that shares nothing. The same through files and processes stands with the
checkpoints.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from nntrain import (
    CancelBatch,
    EarlyStopping,
    Learner,
    Outcome,
    Slot,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    fit_step,
)
from nntrain.data import segments, transformed
from nntrain.subscribers.protocol import AnswerBatch
from nntrain.values.output import BatchOutput
from tests.laws.strategies import (
    ALL_SETS,
    CPU,
    Batch,
    KeyedLoader,
    KeyedLoaders,
    Loaders,
    Rolls,
    Sets,
    Setup,
    setups,
)
from tests.sampled import TRIES


class Tally(BaseModel, frozen=True):
    """Batches heard before and after, and the sum of their losses."""

    before: int = 0
    after: int = 0
    losses: float = 0.0


TALLY: Final = Slot("law4.tally", Tally, default=Tally())


class SkipEveryThird(Subscriber[Batch]):
    """Counts in a slot, over phases and epochs, and skips every third batch."""

    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        tally = state.get(TALLY)
        counted = state.put(TALLY, tally.model_copy(update={"before": tally.before + 1}))
        return CancelBatch(reason="third", state=counted) if tally.before % 3 == 2 else counted

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        tally = state.get(TALLY)
        losses = tally.losses + output.loss.item()
        return state.put(TALLY, tally.model_copy(update={"after": tally.after + 1, "losses": losses}))


class TorchLoaders:
    """Shuffled torch DataLoaders, made anew for each learner."""

    def __init__(self, setup: Setup) -> None:
        self.train: DataLoader[tuple[Tensor, ...]] = self._shuffled(setup)
        self.valid: DataLoader[tuple[Tensor, ...]] = self._shuffled(setup)

    @staticmethod
    def _shuffled(setup: Setup) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(*setup.samples()), batch_size=max(setup.train), shuffle=True)


@dataclass(frozen=True)
class Run:
    """A configuration with subscribers that remember, and one of three kinds of data."""

    setup: Setup
    data: str
    stopping: bool

    def learner(self, told: list[Transition]) -> Learner[Batch]:
        """Make a new learner; `told` keeps all its transitions."""
        subs: list[Subscriber[Batch]] = [SkipEveryThird(), Rolls()]
        if self.stopping:
            subs.append(EarlyStopping(monitor=self.setup.monitor, patience=1, min_delta=0.05))
        learner = self.setup.learner(subs, [told.append])
        train: Any
        if self.data == "keyed":
            loaders = KeyedLoaders(KeyedLoader(self.setup.batches("train")), KeyedLoader(self.setup.batches("eval")))
            return learner.replace(dls=loaders)
        if self.data == "torch":
            return learner.replace(dls=TorchLoaders(self.setup))
        if self.data == "segments":
            train = segments(TorchLoaders(self.setup).train, batches=3)
            return learner.replace(dls=Loaders(train, self.setup.loaders().valid))
        if self.data == "transformed":
            noisy: Any = transformed(TorchLoaders(self.setup).train, noised)
            train = segments(noisy, batches=3)
            return learner.replace(dls=Loaders(train, self.setup.loaders().valid))
        return learner


def noised(batch: Batch) -> Batch:
    """Add what is drawn from torch's generator and from Python's."""
    return batch[0] + 0.1 * torch.randn_like(batch[0]) + random.random(), batch[1]


def shown(told: list[Transition]) -> list[object]:
    """Give what can be compared of the transitions."""
    return [
        (one.at, one.progress, one.event, one.by, one.stats, type(one.verdict), copy.deepcopy(one.state))
        for one in told
    ]


drawn_runs = given(
    setup=setups(models=("linear", "mlp", "tied", "conv", "dropout")),
    sets=st.sampled_from(ALL_SETS),
    data=st.sampled_from(["list", "keyed", "torch", "segments", "transformed"]),
    steps=st.sampled_from([None, None, 3, 5]),
    stopping=st.booleans(),
    seed=st.integers(0, 5),
)


def every_transition_of_a_fit_can_be_gone_on_from(
    device: torch.device,
    setup: Setup,
    sets: Sets,
    data: str,
    steps: int | None,
    stopping: bool,
    seed: int,
) -> None:
    setup = replace(setup.on(device), sets="one" if data in {"keyed", "torch"} else sets)
    run, told = Run(setup, data, stopping), list[Transition]()
    learner = run.learner(told)
    straight = fit_step(learner, learner.init(seed), 2 if steps is None else None, steps=steps)
    course = shown(told)
    assert told[-1].state == straight.state
    for index, transition in enumerate(told):
        if transition.state.progress.at == "finished":
            continue
        again: list[Transition] = []
        resumed = fit_step(run.learner(again), copy.deepcopy(transition.state))
        assert_same(resumed, straight)
        assert shown(again) == course[index + 1 :]


test_every_transition_of_a_fit_can_be_gone_on_from = settings(max_examples=15)(
    drawn_runs(every_transition_of_a_fit_can_be_gone_on_from)
)
FITS = TRIES // 2
"""Twenty-five in the sweep, and ten times as many with --hypothesis-profile=sweep."""
test_every_transition_of_many_fits_can_be_gone_on_from = pytest.mark.sweep(
    settings(max_examples=FITS)(drawn_runs(every_transition_of_a_fit_can_be_gone_on_from))
)


@given(setup=setups(), seed=st.integers(0, 3), first=st.integers(0, 2), second=st.integers(1, 2))
def test_a_second_fit_goes_on_in_a_new_learner(
    device: torch.device, setup: Setup, seed: int, first: int, second: int
) -> None:
    setup = setup.on(device)
    learner = setup.learner()
    finished = fit_step(learner, learner.init(seed), first).state
    twin = copy.deepcopy(finished)
    straight = fit_step(learner, finished, second)
    assert_same(fit_step(setup.learner(), twin, second), straight)
    assert straight.state.progress.epoch == first + second
    assert [one.epoch for one in straight.state.history] == [epoch for epoch in range(first + second) for _ in range(2)]


def assert_same(one: Outcome, other: Outcome) -> None:
    """Compare kind, state and who cancelled."""
    assert one == other
    assert one.state.history == other.state.history


def test_a_resumed_weight_is_not_the_fresh_one() -> None:
    """The law would hold for a training that does nothing: this one does something at each place."""
    told: list[Transition] = []
    Run(Setup(), "torch", stopping=False).learner(told).fit(2, print_stats=False)
    weights = {tuple(one.state.params["0.weight"].flatten().tolist()) for one in told}
    assert len(weights) == 1 + told[-1].state.progress.step
    assert told[-1].state.get(TALLY).before > told[-1].state.get(TALLY).after > 0


def test_the_order_of_a_torch_loader_differs_from_epoch_to_epoch() -> None:
    seen: list[list[float]] = []

    class Look(Subscriber[Batch]):
        def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
            if state.progress.phase == "train":
                seen.append(batch[0].flatten().tolist())
            return state

    setup = Setup()
    Learner(
        setup.make_model(),
        TorchLoaders(setup),
        cross_entropy,
        accuracy,
        setup.make_optimizer(),
        0.1,
        [Look()],
        device=CPU,
    ).fit(2, print_stats=False)
    half = len(seen) // 2
    assert seen[:half] != seen[half:]
    assert sorted(chain.from_iterable(seen[:half])) == sorted(chain.from_iterable(seen[half:]))
