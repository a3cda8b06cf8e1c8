"""What the layers give is what hooks in a hand-written loop see; the training goes on as if nobody had looked."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Engine, Learner, StepOutput, Transition, fit_step
from nntrain.errors import ConfigError
from nntrain.log import JsonLog, read
from nntrain.looking import ActivationStats, activation_stats
from nntrain.testing import check_subscriber
from nntrain.update import optimizer
from nntrain.values.looks import Activations
from tests.looking.setting import DATA, Batch, learner_of, make_model


def hooked(model: nn.Module, names: list[str], seen: list[tuple[str, Tensor]]) -> None:
    """Note copies of what layers give, as anybody would."""

    def note(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        seen.append((name, output.detach().clone()))

    for name in names:
        model.get_submodule(name).register_forward_hook(partial(note, name))


def assert_seen(found: Activations, seen: list[tuple[str, Tensor]], bins: int = 40) -> None:
    assert [one.layer.partition(":")[0] for one in found.layers] == [name for name, _ in seen]
    for one, (_, output) in zip(found.layers, seen, strict=True):
        assert one.shape == tuple(output.shape)
        assert one.mean == pytest.approx(output.mean().item(), abs=1e-6)
        assert one.std == pytest.approx(output.std(correction=0).item(), abs=1e-6)
        assert one.dead == pytest.approx((output.flatten(1).abs().sum(0) == 0).float().mean().item())
        expected = torch.histc(output.abs().clamp(max=found.high), bins, 0, found.high)
        assert one.histogram == tuple(map(int, expected.tolist()))
        assert sum(one.histogram) == output.numel()
        assert one.near_zero == expected[0].item() / output.numel()


LEAVES = ["body.0", "body.1", "relu", "between", "dropout", "head"]


def test_a_curve_over_a_training_is_what_hooks_in_a_hand_written_loop_see(tmp_path: Path) -> None:
    model = make_model()
    seen: list[tuple[str, Tensor]] = []
    hooked(model, LEAVES, seen)
    optim = torch.optim.Adam(model.parameters(), lr=0.01)
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner = learner_of(subs=[ActivationStats(every=2)], sinks=[log])
        learner.fit(2, print_stats=False)
    found = [line for line in read(tmp_path / "log.jsonl") if isinstance(line.event, Activations)]
    assert [(line.epoch, line.phase, line.batch) for line in found] == [
        (epoch, "train", batch) for epoch in range(2) for batch in (1, 3, 5)
    ]
    looks = iter(found)
    for _ in range(2):
        for at, (inputs, target) in enumerate(DATA):
            optim.zero_grad()
            seen.clear()
            cross_entropy(model(inputs), target).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            optim.step()
            if not at % 2:
                event = next(looks).event
                assert isinstance(event, Activations)
                assert [one.layer for one in event.layers if one.kind == "ReLU"] == ["relu", "relu:2"]
                assert_seen(event, seen)


def test_one_look_at_a_state_is_what_hooks_on_its_module_see() -> None:
    learner = learner_of()
    state = learner.fit(1, print_stats=False).state
    kept = learner_of().fit(1, print_stats=False).state
    found = activation_stats(learner, state, DATA[2], layers=["body.*", "head"], bins=7, high=0.5)
    module = state.to_module(train=True)
    seen: list[tuple[str, Tensor]] = []
    hooked(module, ["body.0", "body.1", "head"], seen)
    module(DATA[2][0])
    assert_seen(found, seen, bins=7)
    assert any(one.histogram[-1] for one in found.layers)
    assert state == kept
    assert activation_stats(learner, state, layers="head") == activation_stats(learner, state, DATA[0], layers="head")
    assert "head" in str(found)
    assert fit_step(learner, state, 1).state == fit_step(learner_of(), kept, 1).state


def test_what_is_random_is_a_function_of_the_state() -> None:
    learner = learner_of(dropout=0.5)
    state = learner.init(3)
    before = torch.get_rng_state()
    one, same = (activation_stats(learner, state, DATA[0], layers="head") for _ in range(2))
    assert one == same != activation_stats(learner, learner.init(4), DATA[0], layers="head")
    assert torch.equal(before, torch.get_rng_state())


def test_a_dead_layer_is_seen_and_so_are_values_that_are_not_finite() -> None:
    model = make_model()
    with torch.no_grad():
        model.between.weight.zero_()
        model.between.bias.fill_(-1.0)
        model.head.bias[0] = float("nan")
        model.head.bias[1] = float("inf")
    learner = learner_of(model=model)
    found = {one.layer: one for one in activation_stats(learner, learner.init(), DATA[0]).layers}
    assert found["relu:2"].dead == 1.0
    assert found["relu:2"].near_zero == 1.0
    assert found["relu"].dead < 1.0
    assert sum(found["head"].histogram) == 12
    assert found["head"].histogram[-1] == 6
    assert math.isnan(found["head"].mean)


def test_what_is_not_finite_comes_back_from_the_log(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner = learner_of(model=model, subs=[ActivationStats(layers="head")], sinks=[log])
        learner.fit(1, print_stats=False)
    (found,) = [line.event for line in read(tmp_path / "log.jsonl") if isinstance(line.event, Activations)]
    assert math.isnan(found.layers[0].mean)
    assert (
        found.layers[0].histogram
        == activation_stats(learner, learner.init(), DATA[0], layers="head").layers[0].histogram
    )


def test_a_batch_that_needs_a_task_says_so() -> None:
    def task(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        preds = model(batch[1])
        return StepOutput(cross_entropy(preds, batch[0]), preds, batch[0])

    dls = DataLoaders([(y, x) for x, y in DATA], None)
    update = optimizer(torch.optim.SGD, lr=0.1)
    learner: Learner[Batch, Tensor] = Learner.of(make_model(), dls, task, update, subs=[ActivationStats()])
    with pytest.raises(RuntimeError) as failed:
        learner.fit(1, print_stats=False)
    assert any("ActivationStats(task=...)" in note for note in failed.value.__notes__)
    learner.replace(subs=[ActivationStats(task=task)]).fit(1, print_stats=False)


def own_task(model: Callable[[Tensor], Tensor], batch: dict[str, Tensor]) -> StepOutput[Tensor]:
    preds = model(batch["pixels"])
    return StepOutput(cross_entropy(preds, batch["kind"]), preds, batch["kind"])


def test_a_task_of_one_s_own_and_a_precision_are_followed() -> None:
    data = [{"pixels": x, "kind": y} for x, y in DATA]
    logged: list[Activations] = []

    def note(transition: Transition) -> None:
        logged.extend(one for one in transition.logged if isinstance(one, Activations))

    sub = ActivationStats(task=own_task, precision="bf16", layers="head")
    learner: Learner[dict[str, Tensor], Tensor] = Learner.of(
        make_model(),
        DataLoaders(data, None),
        own_task,
        optimizer(torch.optim.SGD, lr=0.1),
        subs=[sub],
        sinks=[note],
        engine=Engine(precision="bf16"),
    )
    state = learner.init()
    learner.fit(1, print_stats=False)
    assert logged == [activation_stats(learner, state, data[0], layers="head")]
    plain = activation_stats(learner.replace(engine=Engine()), state, data[0], layers="head")
    assert plain.layers[0].mean == pytest.approx(logged[0].layers[0].mean, abs=0.02)
    assert plain != logged[0]


@pytest.mark.sweep
def test_it_is_a_subscriber_by_the_laws() -> None:
    check_subscriber(lambda: ActivationStats(every=2), examples=4)


def test_a_fit_keeps_its_bits() -> None:
    with_it = learner_of(dropout=0.5, subs=[ActivationStats(every=1)]).fit(1, print_stats=False).state
    assert with_it == learner_of(dropout=0.5).fit(1, print_stats=False).state


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"every": 0}, "every is 0"),
        ({"every": True}, "every is True"),
        ({"bins": 0}, "bins is 0"),
        ({"high": 0.0}, "high is 0.0"),
        ({"layers": []}, "layers is []"),
        ({"layers": 3}, "layers is 3"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"task": 3}, "task is 3"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ActivationStats(**given)
    assert said in str(refused.value)


def test_a_pattern_that_matches_nothing_is_refused_before_anything_is_trained() -> None:
    told: list[Transition] = []
    learner = learner_of(subs=[ActivationStats(layers="haed")], sinks=[told.append])
    with pytest.raises(ConfigError, match=r"'haed', which matches no layer.*Probably meant: head"):
        learner.fit(1, print_stats=False)
    assert [one.at for one in told] == ["before_fit"]
    with pytest.raises(ConfigError, match="'haed', which matches no layer"):
        activation_stats(learner, learner.init(), layers="haed")
