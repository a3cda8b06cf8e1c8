"""`NanGuard`: stop where the loss is no number, and name the first tensor that was none."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import CancelFit, Cancelled, Completed, DataLoaders, Learner, Outcome, Transition, advance, fit_step
from nntrain.errors import ConfigError
from nntrain.events import Subscriber
from nntrain.records import Totals
from nntrain.subscribers.nan_guard import NanGuard

Batch = tuple[Tensor, Tensor]


def batches(count: int = 6) -> list[Batch]:
    source = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, generator=source), torch.randn(4, 1, generator=source)) for _ in range(count)]


def spoilt(count: int, bad: int, value: float) -> list[Batch]:
    made = batches(count)
    made[bad][0][1, 2] = value
    return made


def error_of(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).abs().mean()


def learner_of(
    subs: Sequence[Subscriber[Any]],
    train: Sequence[Any] | None = None,
    valid: Sequence[Any] | None = None,
    model: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(3, 1)),
    **changes: Any,
) -> Learner[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = model()
    dls = DataLoaders(batches() if train is None else train, batches(3) if valid is None else valid)
    arguments: dict[str, Any] = {"loss_fn": mse_loss, "metric_fn": error_of, "optim_class": torch.optim.SGD, "lr": 0.1}
    return Learner(made, dls, subs=subs, **{**arguments, **changes})


def reason(outcome: Outcome) -> str:
    assert isinstance(outcome, Cancelled)
    assert isinstance(outcome.verdict, CancelFit)
    assert outcome.by in {"NanGuard", "Elsewhere"}
    return outcome.verdict.reason


class Elsewhere(NanGuard):
    """Takes the CPU for a device that looking waits for."""

    @staticmethod
    def _waits(loss: Tensor) -> bool:
        return True


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_value_of_the_batch_is_named(value: float) -> None:
    outcome = learner_of([NanGuard()], spoilt(6, 3, value)).fit(2, print_stats=False)
    assert reason(outcome) == (
        f"the loss is {value} by step 4 (epoch 0, train, after 4 batches); "
        "first bad tensor: batch[0], 1 of 12 values are not finite"
    )
    assert outcome.state.progress.step == 4


@dataclass
class Named:
    pixels: Tensor
    label: Tensor


def test_batches_of_all_kinds_are_looked_through() -> None:
    inputs, target = spoilt(1, 0, math.nan)[0]
    for batch, name in (
        ({"x": inputs, "label": target}, "batch['x']"),
        (Named(inputs, target), "batch.pixels"),
        ([inputs, target], "batch[0]"),
    ):
        assert f"first bad tensor: {name}, 1 of 12" in reason(
            learner_of([NanGuard()], [batch]).fit(1, print_stats=False)
        )


class Root(nn.Module):
    """Makes a NaN of a negative input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.linear(inputs.sqrt())
        return found


def test_what_the_model_makes_of_a_good_batch_is_named() -> None:
    assert "first bad tensor: preds, " in reason(learner_of([NanGuard()], model=Root).fit(1, print_stats=False))


def test_a_loss_that_is_none_of_good_predictions_leads_to_the_weights_after_it() -> None:
    """The weights before the batch were good, or its predictions were not; those after it are what is left of them."""

    def loss(preds: Tensor, target: Tensor) -> Tensor:
        return mse_loss(preds, target) * math.nan

    assert "first bad tensor: params/0.weight, 3 of 3 values" in reason(
        learner_of([NanGuard()], loss_fn=loss).fit(1, print_stats=False)
    )


def test_in_eval_nothing_but_the_loss_may_be_bad() -> None:
    def loss(preds: Tensor, target: Tensor) -> Tensor:
        return mse_loss(preds, target) * (1.0 if preds.requires_grad else math.inf)

    said = reason(learner_of([NanGuard()], loss_fn=loss).fit(1, print_stats=False))
    assert said == (
        "the loss is inf by step 6 (epoch 0, eval, after 1 batches); "
        "no tensor that it can come from is bad but the loss itself"
    )


def test_weights_that_overflow_show_in_the_predictions() -> None:
    said = reason(learner_of([NanGuard()], lr=3e38).fit(5, print_stats=False))
    assert "first bad tensor: preds, " in said


def test_a_device_is_looked_at_every_so_many_batches_and_at_the_end_of_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, reads = Totals.tolist, list[int]()

    def read(totals: Totals) -> list[float]:
        reads.append(1)
        return plain(totals)

    outcome = learner_of([Elsewhere(every=4)], spoilt(20, 9, math.nan), lr=0.01).fit(1, print_stats=False)
    assert reason(outcome).startswith("the loss is nan by step 12 (epoch 0, train, after 12 batches); first bad tensor")
    last = learner_of([Elsewhere(every=4)], spoilt(7, 5, math.nan), lr=0.01).fit(1, print_stats=False)
    assert isinstance(last, Cancelled)
    assert last.event == "after_epoch"
    assert "first bad tensor: params/0.weight" in reason(last)

    monkeypatch.setattr(Totals, "tolist", read)
    assert isinstance(learner_of([Elsewhere(every=4)], batches(20), batches(3)).fit(1, print_stats=False), Completed)
    alone = 2  # what the machine reads: the means of two phases
    assert len(reads) == 20 // 4 + alone


@pytest.mark.parametrize("guard", [NanGuard(), Elsewhere(every=2)])
def test_it_changes_nothing_and_goes_on_where_it_was(guard: NanGuard) -> None:
    alone = learner_of([]).fit(2, print_stats=False)
    assert learner_of([guard]).fit(2, print_stats=False) == alone
    told: list[Transition] = []
    train = spoilt(8, 5, math.nan)
    straight = learner_of([guard], train, sinks=[told.append]).fit(2, print_stats=False)
    assert isinstance(straight, Cancelled)
    for one in told[:-1]:
        assert fit_step(learner_of([guard], train), copy.deepcopy(one.state)) == straight


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_device_is_not_waited_for_between() -> None:
    learner = learner_of([NanGuard(every=1000)], device="cuda")
    state = learner.init(epochs=1)
    while state.progress.batch < 3:
        state = advance(learner, state).state
    torch.cuda.set_sync_debug_mode("error")
    try:
        advance(learner, state)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("every", [0, True, 1.5, "2"])
def test_what_cannot_be_meant_is_refused(every: Any) -> None:
    with pytest.raises(ConfigError, match="expected a whole number of batches"):
        NanGuard(every)
