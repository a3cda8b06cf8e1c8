"""More update rules, each against a loop written by hand, and resumed from every transition."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import DataLoaders, Learner, TrainState, Transition, advance, fit_step, supervised
from nntrain.checkpoint import load, save
from nntrain.update import UpdateRule, accumulate, chain, clip_norm, optimizer, skip_nonfinite
from nntrain.update.skipping import unscale
from tests.update.test_rules import ADAMW, SGD, assert_same, by_hand, fitted, learner_of

Batch = tuple[Tensor, Tensor]


def assert_resumes(update: UpdateRule, folder: Path) -> TrainState:
    """Check that a fit goes on exactly from each of its states, one of them from a file; return its end."""
    learner = learner_of(update)
    states = [learner.init(epochs=2)]
    while states[-1].progress.at != "finished":
        states.append(advance(learner, states[-1]).state)
    save(states[len(states) // 2], folder / "amid")
    for state in (*states[:-1], load(folder / "amid", learner_of(update))):
        assert fit_step(learner_of(update), state).state == states[-1]
    return states[-1]


# -- skip_nonfinite ------------------------------------------------------------------------------------------------

BAD_STEPS = (1, 2, 6)


class Spoils:
    """Spoils a gradient at some steps."""

    def __init__(self, value: float = math.nan) -> None:
        self.value = value

    def bind(self, params: dict[str, Tensor], /) -> BoundSpoils:
        return BoundSpoils(self.value)


class BoundSpoils:
    def __init__(self, value: float) -> None:
        self.memory: dict[str, object] = {}
        self.value = value

    def loss(self, loss: Tensor, /) -> Tensor:
        return loss

    def write(self, gradients: dict[str, Tensor], at: object, /) -> bool:
        if at.step in BAD_STEPS:  # type: ignore[attr-defined] # At
            gradients["head.bias"][1] = self.value
        return True


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_skip_nonfinite_writes_nothing_of_such_a_batch_and_counts_it(value: float, tmp_path: Path) -> None:
    update = chain(Spoils(value), skip_nonfinite(), clip_norm(0.5), optimizer(ADAMW, lr=0.01, weight_decay=0.1))
    told: list[float] = []

    def note(transition: Transition) -> None:
        if transition.output is not None and transition.progress.phase == "train":
            told.append(float(transition.output.told["skipped"]))

    state = fitted(update, sinks=[note])

    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        if step in BAD_STEPS:
            optim.zero_grad()  # with no gradients nothing is written
        else:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)

    assert_same(state, by_hand(lambda model: ADAMW(model.parameters(), lr=0.01, weight_decay=0.1), before))
    assert told == [float(step in BAD_STEPS) for step in range(10)]
    assert state.tensors.snapshot().optim.rules["skip_nonfinite"] == {"skipped": 3}
    assert state.progress.step == 10
    assert assert_resumes(update, tmp_path) == state


def test_skip_nonfinite_changes_no_bit_of_what_is_finite() -> None:
    plain = optimizer(ADAMW, lr=0.01)
    assert_same(fitted(chain(skip_nonfinite(), plain)), fitted(plain).to_module())


def test_skip_nonfinite_leaves_a_batch_or_a_window_out() -> None:
    rates = optimizer(SGD, lr=0.1)
    batches = [(torch.ones(1, 1) * x, torch.zeros(1, 1)) for x in (1.0, math.inf, 2.0, 3.0)]

    def trained(update: UpdateRule, data: list[Batch]) -> TrainState:
        torch.manual_seed(0)
        learner: Learner[Batch] = Learner.of(nn.Linear(1, 1), DataLoaders(data), supervised(mse_loss), update)
        return learner.fit(1, print_stats=False).state

    each = trained(chain(skip_nonfinite(), accumulate(2), rates), batches)
    assert_same(each, trained(chain(accumulate(2), rates), [batches[0], *batches[2:]]).to_module())
    window = trained(chain(accumulate(2), skip_nonfinite(), rates), batches)
    assert_same(window, trained(chain(accumulate(2), rates), batches[2:]).to_module())


def test_gradients_of_every_kind_are_looked_at() -> None:
    one = torch.ones(())
    kinds: tuple[Callable[[float], Tensor], ...] = (
        lambda x: torch.tensor([1.0, x], dtype=torch.float64),
        lambda x: torch.tensor([1.0, x], dtype=torch.bfloat16),
        lambda x: torch.tensor([complex(1.0, x)]),
        lambda x: torch.sparse_coo_tensor(torch.tensor([[1]]), torch.tensor([x]), (3,), check_invariants=True),
    )
    for make in kinds:
        for x in (2.0, math.nan, math.inf):
            assert bool(unscale([torch.ones(3), make(x)], one)) is not math.isfinite(x)
    large = [torch.full((9,), 3e38), torch.zeros(0)]
    assert not unscale(large, one)
