"""Law 1, immutability: after any program of steps, failing ones included, every kept state is what it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nntrain import (
    CancelFit,
    Learner,
    Outcome,
    Subscriber,
    TrainState,
    Transition,
    advance,
    batch_step,
    epoch_step,
    fit_step,
    state_before,
)
from nntrain.errors import StateError
from nntrain.subscribers.protocol import AnswerBatch
from nntrain.values.output import BatchOutput
from tests.laws.faults import BEFORE_WRITING, POINTS, BlownError, Fused, tried
from tests.laws.strategies import CPU, Batch, Kept, Setup, setups

MOST_KEPT = 12
numbers = st.integers(0, 1 << 20)


class Steps(RuleBasedStateMachine):
    """Two learners of one model, with different learning rates, step whatever was kept; some steps fail."""

    device: torch.device = CPU

    @initialize(setup=setups())
    def begin(self, setup: Setup) -> None:
        setup = setup.on(self.device)
        self.fused = Fused(setup)
        self.setup = setup
        self.learners = [self.fused.learner(), self.fused.learner(lr=lambda step: 0.1 / (1 + step))]
        self.kept = [Kept(self.learners[0].init(0, epochs=2))]

    def _keep(self, state: TrainState) -> None:
        self.kept.append(Kept(state))
        if len(self.kept) > MOST_KEPT:
            del self.kept[0]

    def _try(self, step: Callable[[], Outcome]) -> None:
        result = tried(step)
        self.fused.fuse.disarm()
        remains = state_before(result) if isinstance(result, BlownError) else result.state
        if remains is not None:
            self._keep(remains)

    def _pick(self, number: int) -> Kept:
        return self.kept[number % len(self.kept)]

    @rule(which=st.integers(0, 1), seed=st.integers(0, 3))
    def init(self, which: int, seed: int) -> None:
        self._keep(self.learners[which].init(seed, epochs=2))

    @rule(number=numbers)
    def let_go(self, number: int) -> None:
        if len(self.kept) > 1:
            del self.kept[number % len(self.kept)]

    @rule(point=st.sampled_from(POINTS), passes=st.integers(0, 4))
    def arm(self, point: str, passes: int) -> None:
        self.fused.fuse.arm(point, passes)

    @rule(number=numbers, which=st.integers(0, 1))
    def advance(self, number: int, which: int) -> None:
        state = self._pick(number).state
        without_goal = state.progress.at == "before_fit" and state.progress.epochs == 0
        if state.progress.at != "finished" and not without_goal:
            self._try(lambda: advance(self.learners[which], state))

    @rule(number=numbers, which=st.integers(0, 1), batch=numbers)
    def batch_step(self, number: int, which: int, batch: int) -> None:
        state = self._pick(number).state
        if state.progress.at not in {"after_epoch", "after_fit"}:
            batches = self.setup.batches("train")
            self._try(lambda: batch_step(self.learners[which], state, batches[batch % len(batches)]))

    @rule(number=numbers, which=st.integers(0, 1))
    def epoch_step(self, number: int, which: int) -> None:
        state = self._pick(number).state
        if state.progress.at != "finished":
            self._try(lambda: epoch_step(self.learners[which], state))

    @rule(number=numbers, which=st.integers(0, 1), epochs=st.integers(0, 2))
    def fit_step(self, number: int, which: int, epochs: int) -> None:
        state = self._pick(number).state
        self._try(lambda: fit_step(self.learners[which], state, state.progress.epoch + epochs))

    @rule(number=numbers)
    def write_into_copies(self, number: int) -> None:
        state = self._pick(number).state
        for tensor in (*state.params.values(), *state.buffers.values()):
            tensor.fill_(7)
        with torch.no_grad():
            for param in state.to_module().parameters():
                param.fill_(7)

    @rule(number=numbers)
    def borrow(self, number: int) -> None:
        kept = self._pick(number)
        with kept.state.borrow() as tensors:
            for name, tensor in kept.params.items():
                assert torch.equal(tensors[name], tensor)

    @precondition(lambda self: hasattr(self, "kept"))
    @invariant()
    def all_that_is_kept_is_what_it_was(self) -> None:
        for kept in self.kept:
            kept.check()


def test_any_program_of_steps(device: torch.device) -> None:
    here = type("StepsHere", (Steps,), {"device": device})
    run_state_machine_as_test(here, settings=settings(stateful_step_count=20))


class Keeper(Subscriber[Batch]):
    """Keeps what it sees, as no subscriber should, to try what the states are worth."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        self.kept.append(Kept(state))
        return state

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        self.kept.append(Kept(state))
        return state


@pytest.mark.sweep
@given(setup=setups(), epochs=st.integers(1, 2), every=st.integers(1, 3))
def test_states_kept_by_subscribers_and_sinks_in_the_midst_of_a_fit(
    device: torch.device, setup: Setup, epochs: int, every: int
) -> None:
    setup = setup.on(device)
    keeper, told = Keeper(), list[Kept]()

    def sink(transition: Transition) -> None:
        if len(told) % every == 0:
            told.append(Kept(transition.state))

    learner = Fused(setup).learner([keeper], [sink])
    outcome = fit_step(learner, learner.init(0), epochs)
    for kept in (*keeper.kept, *told):
        kept.check()
    assert outcome.state == setup_alone(setup, epochs)


def setup_alone(setup: Setup, epochs: int) -> TrainState:
    learner = Fused(setup).learner()
    return fit_step(learner, learner.init(0), epochs).state


@given(setup=setups(), point=st.sampled_from(POINTS), passes=st.integers(0, 5), held=st.booleans(), quiet=st.booleans())
def test_a_failed_fit_goes_on_from_the_state_before(
    device: torch.device, setup: Setup, point: str, passes: int, held: bool, quiet: bool
) -> None:
    """A step is a transaction: going on from what remains ends as if nothing had failed, seen by anybody or not."""
    setup = setup.on(device)
    straight = setup_alone(setup, 2)
    fused, seen = Fused(setup, quiet=quiet), list[Transition]()
    learner = fused.learner(sinks=[seen.append] if held else [])
    fused.fuse.arm(point, passes)
    result = tried(lambda: fit_step(learner, learner.init(0), 2))
    if isinstance(result, BlownError):
        assert any(note.startswith("nntrain: in ") for note in result.__notes__)
        before = state_before(result)
        if before is None:
            # The optimizer had written. What was held is whole all the same.
            assert point not in BEFORE_WRITING
            if len(seen) < 2:
                return
            with pytest.raises(StateError, match="lost"):
                seen[-1].state.to_module()
            before = seen[-2].state
        if held:
            assert seen[-1].error is result
        kept = Kept(before)
        result = fit_step(learner, before, 2)
        kept.check()
    assert not isinstance(result, BlownError)
    assert result.state == straight


@pytest.mark.parametrize("point", ["loader", "model", "model's end", "loss", "metric", "optimizer"])
@pytest.mark.parametrize("passes", [0, 1, 4, 9])
def test_a_batch_that_nobody_sees_fails_as_others_do(device: torch.device, point: str, passes: int) -> None:
    """Nobody but the caller has a state: the one before the batch is with the error, and goes on to the same end."""
    setup = Setup(device=device)
    fused = Fused(setup, quiet=True)
    learner = fused.learner()
    fused.fuse.arm(point, passes)
    result = tried(lambda: fit_step(learner, learner.init(0), 2))
    assert isinstance(result, BlownError) == (passes < 9 or point != "optimizer")
    if isinstance(result, BlownError):
        before = state_before(result)
        assert before is not None
        assert before.progress.at == "batch"
        result = fit_step(learner, before, 2)
    assert not isinstance(result, BlownError)
    assert result.state == setup_alone(setup, 2)


@given(setup=setups(), point=st.sampled_from(POINTS), steps=st.integers(0, 8))
def test_a_failed_transition_leaves_its_state_whole(device: torch.device, setup: Setup, point: str, steps: int) -> None:
    """The same, one transition at a time, with the state before it kept by the caller."""
    setup = setup.on(device)
    fused = Fused(setup)
    learner = fused.learner()
    state = learner.init(3, epochs=1)
    for _ in range(steps):
        if state.progress.at != "finished":
            state = advance(learner, state).state
    if state.progress.at == "finished":
        return
    kept = Kept(state)
    fused.fuse.arm(point, 0)
    result = tried(lambda: advance(learner, state))
    fused.fuse.disarm()
    if isinstance(result, BlownError) and point in BEFORE_WRITING:
        assert state_before(result) == state
    kept.check()
    assert advance(learner, state) == advance(fused.learner(), kept.twin)


def test_a_cancel_with_an_older_state_rolls_back() -> None:
    """A verdict may bring any state that was kept; the newer ones stay what they were."""

    class Back(Subscriber[Batch]):
        first: Kept | None = None
        later: Kept | None = None

        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
            if self.first is None:
                self.first = Kept(state)
                return state
            self.later = Kept(state)
            return CancelFit(reason="back", state=self.first.state)

    back = Back()
    learner = Setup(model="batch_norm", optimizer="adam").learner([back])
    outcome = learner.fit(1, print_stats=False)
    assert back.first is not None
    assert back.later is not None
    back.first.check()
    back.later.check()
    assert dict(outcome.state.params).keys() == back.first.params.keys()
    for name, tensor in back.first.params.items():
        assert torch.equal(outcome.state.params[name], tensor)
    assert outcome.state.progress.step == 1


def test_what_is_handed_out_is_a_copy() -> None:
    learner: Learner[Batch] = Setup().learner()
    state = learner.init(0)
    name = next(iter(state.params))
    assert state.params[name].data_ptr() != state.params[name].data_ptr()
    with pytest.raises(KeyError, match="no such name"):
        state.params["no such name"]
