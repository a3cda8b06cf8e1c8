"""The rate is lowered where torch's scheduler lowers it, and wherever a training goes on from."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nntrain import DataLoaders, Learner, ReduceOnPlateau, advance, fit_step
from nntrain.errors import ConfigError
from nntrain.testing import check_subscriber

Batch = tuple[Tensor, Tensor]
BATCH = [(torch.ones(2, 1), torch.zeros(2, 1))]
NUMBERS = [math.nan, math.inf, -math.inf, 0.0, 1.0, 0.99995, 0.9, 1.5, 2.0, -1.0, -1.00005]


def learner_of(values: list[float], plateau: ReduceOnPlateau, valid: Any = BATCH) -> Learner[Batch]:
    """Make a learner whose eval loss, and metric, of epoch e is `values[e]`; its buffer counts the epochs."""

    class Counts(nn.Module):
        epochs: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))
            self.register_buffer("epochs", torch.zeros(()))

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                self.epochs += 1
            return self.weight.expand(len(inputs), 1) + self.epochs

    def of_epoch(preds: Tensor, target: Tensor) -> Tensor:
        return torch.tensor(values[round(preds[0].item()) - 1], dtype=torch.float64)

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        return 0 * preds.mean() if torch.is_grad_enabled() else of_epoch(preds, target)

    return Learner(Counts(), DataLoaders(BATCH, valid), loss_fn, of_epoch, torch.optim.SGD, 1.0, [plateau])


def by_torch(values: list[float], settings_: dict[str, Any]) -> list[float]:
    """Return torch's rates after each epoch, from a rate of 1."""
    options = {"min_lr" if name == "min_scale" else name: value for name, value in settings_.items()}
    sgd = torch.optim.SGD([torch.zeros(())], lr=1.0)
    scheduler = ReduceLROnPlateau(sgd, **options)
    rates = []
    for value in values:
        scheduler.step(value)
        rates.append(sgd.param_groups[0]["lr"])
    return rates


SETTINGS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.sampled_from([0.1, 0.5, 0.99]),
        "patience": st.integers(1, 3),
        "threshold": st.sampled_from([0.0, 1e-4, 0.2]),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "cooldown": st.integers(0, 2),
        "min_scale": st.sampled_from([0.0, 0.3, 2.0]),
        "eps": st.sampled_from([0.0, 1e-8, 0.2]),
    }
)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=14),
    given_=SETTINGS,
    monitor=st.sampled_from(["loss", "metric"]),
    cut=st.integers(1, 14),
)
def test_it_is_torch_s_over_one_fit_and_over_several(
    values: list[float], given_: dict[str, Any], monitor: str, cut: int
) -> None:
    learner = learner_of(values, ReduceOnPlateau(monitor, **given_))
    expected = by_torch(values, given_)
    state = learner.init()
    rates = []
    for _ in values:
        state = fit_step(learner, state, epochs=1).state
        rates.append(state.lr_scale)
    assert rates == expected
    first = min(cut, len(values) - 1)
    halfway = learner.fit(first, print_stats=False).state
    assert halfway.lr_scale == expected[first - 1]
    resumed = fit_step(
        learner_of(values, ReduceOnPlateau(monitor, **given_)), copy.deepcopy(halfway), len(values) - first
    )
    assert resumed.state.lr_scale == expected[-1]


def test_a_reduction_is_seen_in_what_it_remembers() -> None:
    plateau = ReduceOnPlateau(patience=1, factor=0.5, cooldown=3)
    state = learner_of([1.0, 2.0, 2.0, 2.0], plateau).fit(4, print_stats=False).state
    memory = state.get(plateau.slot)
    assert (state.lr_scale, memory.best, memory.waited, memory.resting) == (0.5, 1.0, 0, 2)


def test_a_resumed_training_is_the_straight_one_from_each_transition() -> None:
    values = [3.0, 2.0, 2.5, 2.4, 2.3, 2.2]

    def made() -> Learner[Batch]:
        return learner_of(values, ReduceOnPlateau(patience=1, factor=0.5, cooldown=1))

    straight = made().fit(6, print_stats=False).state
    assert straight.lr_scale == 0.5
    learner = made()
    state = learner.init(epochs=6)
    while state.progress.at != "finished":
        assert fit_step(made(), copy.deepcopy(state)).state == straight
        state = advance(learner, state).state


def test_a_cancelled_or_another_phase_counts_for_nothing() -> None:
    plateau = ReduceOnPlateau("far/loss", patience=1, factor=0.5)
    learner = learner_of([2.0] * 4, plateau, {"near": BATCH, "far": BATCH})
    state = learner.fit(3, print_stats=False).state
    assert (state.lr_scale, state.get(plateau.slot).waited) == (0.5, 0)
    trained = ReduceOnPlateau(patience=1, factor=0.5, phase="train")
    state = learner_of([2.0] * 4, trained).fit(3, print_stats=False).state
    assert (state.lr_scale, state.get(trained.slot).best) == (0.5, 0.0)


@pytest.mark.sweep
def test_it_passes_the_kit() -> None:
    check_subscriber(lambda: ReduceOnPlateau(patience=1), examples=2)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "patience of 0": ({"patience": 0}, r"patience is 0; expected a whole number of epochs, 1 or more\."),
    "negative patience": ({"patience": -1}, "patience is -1"),
    "half an epoch": ({"patience": 1.5}, "patience is 1.5"),
    "a factor of 1": ({"factor": 1.0}, "factor is 1.0; expected a number above 0 and below 1"),
    "a factor above 1": ({"factor": 10}, "factor is 10"),
    "a factor of 0": ({"factor": 0}, "factor is 0"),
    "no factor": ({"factor": math.nan}, "factor is nan"),
    "no mode": ({"mode": "lower"}, "mode is 'lower'; expected 'min'"),
    "no mode of the threshold": ({"threshold_mode": "relative"}, "threshold_mode is 'relative'"),
    "a negative threshold": ({"threshold": -1.0}, "threshold is -1.0"),
    "a negative rest": ({"cooldown": -1}, "cooldown is -1; expected a whole number of epochs, 0 or more"),
    "a negative scale": ({"min_scale": -0.1}, "min_scale is -0.1"),
    "no phase": ({"phase": "valid"}, "phase is 'valid'"),
    "no monitor": ({"monitor": ""}, "monitor is ''"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_meant_is_an_error_at_once(name: str) -> None:
    given_, said = MISTAKES[name]
    with pytest.raises(ConfigError, match=said):
        ReduceOnPlateau(**given_)


def test_a_monitor_that_does_not_exist_is_an_error_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="ReduceOnPlateau monitors 'accuracy'; there are loss, metric"):
        Learner(
            nn.Linear(1, 1),
            DataLoaders(BATCH, BATCH),
            mse_loss,
            mse_loss,
            torch.optim.SGD,
            0.1,
            [ReduceOnPlateau("accuracy")],
        )
    with pytest.raises(ConfigError, match="ReduceOnPlateau monitors 'loss'; there are train/loss, train/metric"):
        learner_of([1.0], ReduceOnPlateau(), valid=None)
