"""Early stopping: when it stops, what it remembers, and that a resumed fit stops where the straight one does."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nntrain import Cancelled, Completed, DataLoaders, EarlyStopping, Learner, advance, fit_step
from nntrain.errors import ConfigError
from nntrain.machine.folding import with_goal
from nntrain.values.record import FrozenMapping, evolved
from nntrain.values.slots import Unread

Batch = tuple[Tensor, Tensor]
BATCH = [(torch.ones(2, 1), torch.zeros(2, 1))]


def learner_of(values: list[float], stopping: EarlyStopping) -> Learner[Batch]:
    """Make a learner whose eval loss, and metric, of epoch e is `values[e]`; its only weight counts the epochs."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.epochs = nn.Parameter(torch.zeros(()))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.epochs.expand(len(inputs), 1)

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return -preds.mean()
        return torch.tensor(values[min(round(preds[0].item()), len(values)) - 1])

    return Learner(
        Counts(),
        DataLoaders(BATCH, BATCH),
        loss_fn,
        lambda preds, target: torch.tensor(values[max(min(round(preds[0].item()), len(values)) - 1, 0)]),
        torch.optim.SGD,
        1.0,
        [stopping],
    )


def epochs_run(values: list[float], stopping: EarlyStopping) -> int:
    outcome = learner_of(values, stopping).fit(len(values), print_stats=False)
    return len(outcome.state.history) // 2


def reference(values: list[float], *, mode: str, patience: int, min_delta: float, first: int = 1) -> int:
    """Say after how many epochs to stop, `first` at the earliest, by looking back over the values."""
    best_at, best = -1, math.inf
    for epoch, value in enumerate(values):
        signed = value if mode == "min" else -value
        if not math.isnan(value) and ((best_at < 0 and math.isinf(best)) or signed < best - min_delta):
            best_at, best = epoch, signed
        if epoch - best_at >= patience and epoch + 1 >= first:
            return epoch + 1
    return len(values)


@given(
    values=st.lists(st.sampled_from([math.nan, 0.0, 1.0, 1.5, 2.0, 3.0, -1.0]), min_size=1, max_size=8),
    mode=st.sampled_from(["min", "max"]),
    patience=st.integers(1, 4),
    min_delta=st.sampled_from([0.0, 0.5, 1.0]),
    monitor=st.sampled_from(["loss", "metric"]),
)
def test_it_stops_when_patience_has_run_out(
    values: list[float], mode: Any, patience: int, min_delta: float, monitor: str
) -> None:
    stopping = EarlyStopping(monitor, mode, patience, min_delta)
    assert epochs_run(values, stopping) == reference(values, mode=mode, patience=patience, min_delta=min_delta)


def test_it_says_who_and_why_and_keeps_its_memory() -> None:
    stopping = EarlyStopping(patience=2)
    outcome = learner_of([1.0, 2.0, 2.0, 2.0], stopping).fit(4, print_stats=False)
    assert isinstance(outcome, Cancelled)
    assert (outcome.by, outcome.event) == ("EarlyStopping", "after_epoch")
    assert outcome.verdict.reason == "eval loss has not got better than 1.0 for 2 epochs"
    memory = outcome.state.get(stopping.slot)
    assert (memory.best, memory.waited) == (1.0, 2)


def test_a_resumed_fit_stops_where_the_straight_one_does() -> None:
    values = [3.0, 2.0, 2.5, 2.4, 2.3, 1.0]
    straight = learner_of(values, EarlyStopping(patience=3)).fit(6, print_stats=False)
    learner = learner_of(values, EarlyStopping(patience=3))
    state = learner.init(epochs=6)
    while state.progress.at != "finished":
        resumed = fit_step(learner_of(values, EarlyStopping(patience=3)), copy.deepcopy(state))
        assert resumed.state == straight.state
        state = advance(learner, state).state
    assert len(straight.state.history) == 10


@pytest.mark.sweep
@given(
    values=st.lists(st.sampled_from([math.nan, 1.0, 1.5, 2.0, 3.0]), min_size=2, max_size=8),
    mode=st.sampled_from(["min", "max"]),
    settings_before=st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.5])),
    settings_after=st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.5])),
    epochs=st.integers(1, 7),
    earlier=st.integers(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_resumed_with_other_settings_it_stops_where_these_would_have(
    values: list[float],
    mode: Any,
    settings_before: tuple[int, float],
    settings_after: tuple[int, float],
    epochs: int,
    earlier: int,
) -> None:
    """At the next epoch's end at the earliest. The values of an earlier fit do not count."""
    all_values = [0.5] * earlier + values
    learner = learner_of(all_values, EarlyStopping("loss", mode, *settings_before))
    state = learner.init()
    if earlier:
        state = fit_step(learner, state, earlier).state
    state = with_goal(state, len(values))
    while state.progress.epoch < earlier + epochs and state.progress.at != "finished":
        state = advance(learner, state).state
    if state.progress.at != "before_epoch" or state.progress.phase != "train":
        return  # it stopped, or nothing is left
    patience, min_delta = settings_after
    resumed = fit_step(learner_of(all_values, EarlyStopping("loss", mode, patience, min_delta)), state)
    expected = reference(values, mode=mode, patience=patience, min_delta=min_delta, first=epochs + 1)
    assert len(resumed.state.history) // 2 - earlier == expected


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_checkpoint_with_the_settings_in_the_slot_s_name_goes_on(earlier: int) -> None:
    """As nntrain 0.1 made it: with the best value and how long it had waited."""
    values = [0.5] * earlier + [3.0, 2.0, 2.5, 2.4, 2.3, 1.0]
    learner = learner_of(values, EarlyStopping(patience=3))
    state = learner.init()
    if earlier:
        state = fit_step(learner, state, earlier).state
    state = with_goal(state, 6)
    kept: dict[int, tuple[float | None, int]] = {0: (None, 0), 1: (3.0, 0), 2: (2.0, 0), 3: (2.0, 1), 4: (2.0, 2)}
    while state.progress.at != "finished":
        state = advance(learner, state).state
        if state.progress.at == "before_epoch" and state.progress.phase == "train":
            best, waited = kept[state.progress.epoch - earlier]
            old = Unread(fields=FrozenMapping({"best": best, "waited": waited}))
            slots = FrozenMapping({"nntrain.early_stopping.eval_min_3_0x2e0_loss": old})
            for patience, epochs in ((3, 5), (4, 6)):
                stopping = EarlyStopping(patience=patience)
                resumed = fit_step(learner_of(values, stopping), evolved(state, slots=slots))
                assert len(resumed.state.history) // 2 - earlier == epochs
            assert resumed.state.get(stopping.slot).best == 1.0


def test_two_that_watch_the_same_have_one_slot_and_each_its_own_settings() -> None:
    names = {EarlyStopping(patience=patience, min_delta=delta).slot.name for patience in (1, 5) for delta in (0, 0.5)}
    assert len(names) == 1


def test_a_second_fit_begins_with_full_patience() -> None:
    learner = learner_of([1.0] * 9, EarlyStopping(patience=2))
    first = learner.fit(9, print_stats=False)
    assert len(first.state.history) == 6
    second = fit_step(learner, first.state, 9)
    assert isinstance(second, Cancelled)
    assert len(second.state.history) == 12


def test_two_with_other_monitors_do_not_share_their_memory() -> None:
    learner = learner_of([1.0, 1.0, 1.0], EarlyStopping("loss", "min", 5))
    both = learner.replace(subs=[EarlyStopping("loss", "min", 5), EarlyStopping("metric", "max", 5)])
    outcome = both.fit(3, print_stats=False)
    assert isinstance(outcome, Completed)
    assert len(outcome.state.slots) == 2


def test_two_of_one_monitor_with_other_patience_stop_as_each_alone() -> None:
    values = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    for one, other in ((4, 8), (8, 4)):
        learner = learner_of(values, EarlyStopping(patience=one))
        both = learner.replace(subs=[EarlyStopping(patience=one), EarlyStopping(patience=other, min_delta=0.5)])
        alone = (epochs_run(values, stop) for stop in both.subs if isinstance(stop, EarlyStopping))
        assert len(both.fit(7, print_stats=False).state.history) // 2 == min(alone)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "low"},
        {"patience": 0},
        {"patience": True},
        {"min_delta": -1},
        {"min_delta": math.nan},
        {"phase": "test"},
        {"monitor": ""},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
        EarlyStopping(**wrong)


def test_a_metric_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="monitors 'accuracy'; there are loss, metric"):
        learner_of([1.0], EarlyStopping("accuracy", "max"))
