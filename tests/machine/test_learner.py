"""The learner: what it takes, what it prints, and that its means are the means."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import typing
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import Completed, DataLoaders, Learner, PrintStats, advance, fit_step
from nntrain.errors import ConfigError
from nntrain.machine.learner import Changes
from nntrain.metrics.functions import accuracy

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
SIZES = (64, 64, 64, 7)


def batches() -> list[Batch]:
    return [(torch.randn(n, 5, generator=SOURCE) * 10, torch.randint(0, 3, (n,), generator=SOURCE)) for n in SIZES]


TRAIN, VALID = batches(), batches()


def learner_of(**changes: Any) -> Learner[Batch]:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "model": nn.Linear(5, 3),
        "dls": DataLoaders(TRAIN, VALID),
        "loss_fn": cross_entropy,
        "metric_fn": accuracy,
        "optim_class": torch.optim.SGD,
        "lr": 0.1,
        **changes,
    }
    return Learner(**arguments)


def test_the_arguments_have_these_names_and_this_order() -> None:
    names = [one.name for one in dataclasses.fields(Learner)]
    assert names[:7] == ["model", "dls", "loss_fn", "metric_fn", "optim_class", "lr", "subs"]
    positional = Learner(nn.Linear(5, 3), DataLoaders(TRAIN, VALID), cross_entropy, accuracy, torch.optim.SGD, 0.1, [])
    assert isinstance(positional.fit(1, print_stats=False), Completed)


def test_a_learner_is_frozen_and_replaced() -> None:
    learner = learner_of()
    with pytest.raises(dataclasses.FrozenInstanceError):
        learner.lr = 0.2  # type: ignore[misc] # the mistake
    other = learner.replace(lr=0.2)
    assert (learner.lr, other.lr) == (0.1, 0.2)
    assert other.replace(lr=0.1) == learner
    assert other != learner
    assert "SGD, lr=0.1" in repr(learner)
    used = learner.replace(lr=0.1)
    used.fit(1, print_stats=False)
    assert used == learner  # the workspace is no part of its value
    with pytest.raises(ConfigError, match="has no learning_rate"):
        learner.replace(learning_rate=3)  # type: ignore[call-arg] # what untyped callers may write


def test_means_are_weighted_by_samples_as_in_float64() -> None:
    learner = learner_of(lr=0.0)
    state = learner.fit(1, print_stats=False).state
    model = state.to_module().double()
    for stats, data in zip(state.history, (TRAIN, VALID), strict=True):
        inputs, target = torch.cat([x for x, _ in data]).double(), torch.cat([y for _, y in data])
        preds = model(inputs)
        assert stats.loss == pytest.approx(cross_entropy(preds, target).item(), abs=1e-6)
        assert stats.metrics["metric"] == pytest.approx((preds.argmax(1) == target).double().mean().item(), abs=1e-6)
        assert (stats.samples, stats.batches) == (sum(SIZES), len(SIZES))
        assert stats.seconds > 0


def test_a_mapping_of_metrics_names_each() -> None:
    def wrong(preds: Tensor, target: Tensor) -> Tensor:
        return 1 - accuracy(preds, target)

    state = learner_of(metric_fn={"acc": accuracy, "err": wrong, "three": lambda preds, target: 3}).fit(1).state
    for stats in state.history:
        assert list(stats.metrics) == ["acc", "err", "three"]
        assert stats.metrics["acc"] + stats.metrics["err"] == pytest.approx(1)
        assert stats.metrics["three"] == 3.0


def test_the_printed_line(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = learner_of().fit(2)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"epoch=0{one.epoch} | {'train' if one.phase == 'train' else 'eval '} | loss={one.loss:.3f} | "
        f"metric={one.metrics['metric']:.3f}"
        for one in outcome.state.history
    ]
    learner_of().fit(1, print_stats=False)
    assert capsys.readouterr().out == ""
    learner_of(sinks=[PrintStats()]).fit(1)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_lr_may_be_a_function_of_the_step() -> None:
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return 0.1 / (1 + step)

    learner = learner_of(lr=schedule)
    asked.clear()
    state = learner.fit(2, print_stats=False).state
    assert sorted(set(asked)) == list(range(8))
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for step in range(8):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        inputs, target = TRAIN[step % 4]
        optimizer.zero_grad()
        cross_entropy(model(inputs), target).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        optimizer.step()
    assert torch.equal(state.params["weight"], model.weight.detach())


def test_optim_class_is_anything_that_makes_an_optimizer() -> None:
    def groups(params: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        options: list[dict[str, Any]] = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.0}]
        return torch.optim.AdamW(options, lr=lr)

    for optim_class in (functools.partial(torch.optim.SGD, momentum=0.9), groups):
        state = learner_of(optim_class=optim_class).fit(1, print_stats=False).state
        assert state.progress.step == 4
        assert math.isfinite(state.history[-1].loss)


def test_a_factory_makes_weights_from_the_seed() -> None:
    learner = learner_of(model=lambda: nn.Linear(5, 3))
    one, again, other = learner.init(0), learner.init(0), learner.init(1)
    assert one == again
    assert one != other
    assert not torch.equal(one.params["weight"], other.params["weight"])
    assert fit_step(learner, one, 1).state == learner.fit(1, print_stats=False).state
    assert one.to_module()(torch.ones(1, 5)).shape == (1, 3)


def test_a_new_goal_holds_wherever_the_state_stands() -> None:
    learner = learner_of(dls=DataLoaders(TRAIN[:1], VALID[:1]))
    state = learner.init(epochs=3)
    straight = {epochs: learner.fit(epochs, print_stats=False).state.history for epochs in (1, 2, 3, 5)}
    while state.progress.at != "finished":
        place = state.progress
        for goal in (1, 2, 5):
            # An epoch that has begun is finished.
            begun = place.epoch + (place.at in {"batch", "after_epoch"} or place.phase == "eval")
            done = fit_step(learner, state, goal).state
            if place.at != "before_fit":
                assert done.history == straight[max(goal, begun)], (place, goal)
                assert done.progress.epoch == max(goal, begun)
            assert done.progress.at == "finished"
        state = advance(learner, state).state


def test_a_learner_is_compared_hashed_and_copied_used_or_not() -> None:
    learner = learner_of(metric_fn={"acc": accuracy})
    state = learner.fit(1, print_stats=False).state
    assert learner != learner_of(metric_fn={"acc": accuracy})  # other data, though equal
    assert hash(learner) == hash(learner.replace())
    assert copy.deepcopy(learner).fit(1, print_stats=False).state == state


@pytest.mark.parametrize("wrong", [-1.0, math.nan, "fast"])
def test_a_schedule_is_held_to_what_a_constant_is(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="at step 2; expected a finite number of 0 or more"):
        learner_of(lr=lambda step: 0.1 if step < 2 else wrong).fit(1, print_stats=False)


def test_replace_takes_each_argument_of_a_learner_with_its_type() -> None:
    changes, own = typing.get_type_hints(Changes), typing.get_type_hints(Learner)
    assert changes.keys() == own.keys()
    assert {name: hint for name, hint in changes.items() if name != "task"} == {
        name: hint
        for name, hint in own.items()
        if name != "task"  # a task of other predictions will do
    }
