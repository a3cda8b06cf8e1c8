"""Law 14: several objectives are the hand-written alternating loop, bit for bit. And the other laws, with several."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from nntrain import (
    BatchOutput,
    CancelBatch,
    CancelFit,
    Cancelled,
    DataLoaders,
    Engine,
    Learner,
    Objective,
    StepOutput,
    Subscriber,
    TrainState,
    advance,
    fit_step,
    state_before,
    supervised,
)
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError, DataError, LossError
from nntrain.update import At, BoundRule, Gradients, accumulate, chain, clip_norm, ema, optimizer

CODE, SIZE = 3, 5


class Gan(nn.Module):
    """Two networks: one makes, one judges."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Sequential(nn.Linear(CODE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, SIZE))
        self.judge = nn.Sequential(nn.Linear(SIZE, 8), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(8, 1))


def judged(model: Gan, real: Tensor) -> StepOutput[Tensor]:
    """Tell what is real from what is made."""
    made = model.maker(torch.randn(len(real), CODE)).detach()
    told, fooled = model.judge(real), model.judge(made)
    right, wrong = bce(told, torch.ones_like(told)), bce(fooled, torch.zeros_like(fooled))
    return StepOutput(right + wrong, told, parts={"real": right, "made": wrong})


def made(model: Gan, real: Tensor) -> StepOutput[Tensor]:
    """Make what is taken for real by the judge that has just learned."""
    fakes = model.maker(torch.randn(len(real), CODE))
    told = model.judge(fakes)
    return StepOutput(bce(told, torch.ones_like(told)), fakes)


def data(sizes: tuple[int, ...] = (8, 8, 5)) -> list[Tensor]:
    """Make what is real."""
    source = torch.Generator().manual_seed(0)
    return [torch.randn(size, SIZE, generator=source) + 2 for size in sizes]


def gan() -> Gan:
    """Make the networks."""
    torch.manual_seed(0)
    return Gan()


OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9)}),
}


def learner_of(batches: list[Tensor], how: str = "adam", *, clip: bool = False, **named: Any) -> Learner[Tensor, Any]:
    """Make a learner of both."""
    kind, options = OPTIMIZERS[how]
    judge: Any = optimizer(kind, params="judge.*", **options)
    maker: Any = optimizer(kind, params="maker.*", **options)
    if clip:
        judge, maker = chain(clip_norm(0.5), judge), chain(clip_norm(0.5), maker, ema(0.9))
    objectives = [Objective("judge", judged, judge), Objective("maker", made, maker)]
    return Learner.of(gan(), DataLoaders(batches, batches[:1]), objectives=objectives, **named)


def by_hand(batches: list[Tensor], how: str, epochs: int, learner: Learner[Tensor, Any], *, clip: bool) -> Gan:
    """Train both as one would by hand, with the noise that the learner gives to each step."""
    kind, options = OPTIMIZERS[how]
    model = gan().train()
    judge, maker = kind(model.judge.parameters(), **options), kind(model.maker.parameters(), **options)
    key, step = learner.init(0).key, 0
    for _ in range(epochs):
        for batch in batches:
            torch.manual_seed(key.derived(1) + step)
            for task, network, stepped in ((judged, model.judge, judge), (made, model.maker, maker)):
                loss = task(model, batch).loss
                assert loss is not None
                model.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
                if clip:
                    torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
                stepped.step()
            step += 1
    return model


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 6), min_size=1, max_size=4),
    how=st.sampled_from(sorted(OPTIMIZERS)),
    epochs=st.integers(1, 2),
    clip=st.booleans(),
)
def test_they_are_the_alternating_loop(sizes: list[int], how: str, epochs: int, clip: bool) -> None:
    batches = data(tuple(sizes))
    learner = learner_of(batches, how, clip=clip)
    state = learner.fit(epochs, print_stats=False).state
    model = by_hand(batches, how, epochs, learner, clip=clip)
    there = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in {**state.params, **state.buffers}.items():
        assert torch.equal(tensor, there[name]), name
    assert state.progress.step == epochs * len(batches)


def test_each_loss_and_its_parts_are_told() -> None:
    outputs: list[BatchOutput[Any]] = []

    class Sees(Subscriber[Tensor, Any]):
        def after_batch(self, state: TrainState, batch: Tensor, output: BatchOutput[Any]) -> TrainState:
            outputs.append(output)
            return state

    state = learner_of(data(), subs=[Sees()]).fit(1, print_stats=False).state
    assert [*state.history[0].metrics] == ["judge", "judge.real", "judge.made", "maker"]
    one = outputs[0]
    assert one.loss.item() == pytest.approx(float(one.metrics["judge"]) + float(one.metrics["maker"]))
    assert {name: preds.shape for name, preds in one.preds.items()} == {"judge": (8, 1), "maker": (8, SIZE)}
    told: list[Any] = []
    learner_of(data(), clip=True, sinks=[lambda seen: told.append(seen.output)]).fit(1, print_stats=False)
    assert [*next(output for output in told if output is not None).told] == ["judge.grad_norm", "maker.grad_norm"]
    stats = state.history[0]
    assert stats.loss == pytest.approx(stats.metrics["judge"] + stats.metrics["maker"])


@pytest.mark.parametrize("clip", [False, True])
def test_it_goes_on_from_every_transition(tmp_path: Path, clip: bool) -> None:
    whole = learner_of(data(), clip=clip).fit(2, print_stats=False).state
    learner = learner_of(data(), clip=clip)
    state = learner.init(0, epochs=2)
    kept: list[tuple[TrainState, TrainState]] = []
    while state.progress.at != "finished":
        save(state, tmp_path / "state")
        other = learner_of(data(), clip=clip)
        kept.append((state, load(tmp_path / "state", other)))
        state = advance(other, kept[-1][1]).state
    assert state == whole
    assert all(one == two for one, two in kept)


def test_kept_states_stay_and_two_ways_from_one_are_the_same() -> None:
    learner = learner_of(data(), clip=True)
    state = learner.init(0, epochs=2)
    kept = [(state, copy.deepcopy(state))]
    while state.progress.at != "finished":
        first, second = advance(learner, state).state, advance(learner, state).state
        assert first == second
        kept.append((first, copy.deepcopy(first)))
        state = first
    assert all(one == copied for one, copied in kept)


class FailsError(Exception):
    """What a task raises here."""


@pytest.mark.parametrize("where", ["judge", "maker", "after_batch", "cancelled"])
def test_a_batch_is_all_or_nothing(where: str) -> None:
    at = 2

    class Stops(Subscriber[Tensor, Any]):
        def after_batch(self, state: TrainState, batch: Tensor, output: BatchOutput[Any]) -> Any:
            if state.progress.batch != at + 1 or state.progress.phase != "train":
                return state
            if where == "after_batch":
                raise FailsError
            return CancelFit(reason="enough", state=before[0]) if where == "cancelled" else state

    class Keeps(Subscriber[Tensor, Any]):
        def before_batch(self, state: TrainState, batch: Tensor) -> TrainState:
            if state.progress.batch == at:
                before[:] = [state]
            return state

    before: list[TrainState] = []
    failing = [False]

    def failing_at(name: str, task: Any) -> Any:
        def fails(model: Gan, batch: Tensor) -> StepOutput[Tensor]:
            output: StepOutput[Tensor] = task(model, batch)
            if failing[0] and where == name and len(batch) == 5:
                raise FailsError
            return output

        return fails

    def of(*subs: Any) -> Learner[Tensor, Any]:
        rules = [optimizer(torch.optim.Adam, params=f"{name}.*", lr=0.01) for name in ("judge", "maker")]
        objectives = [
            Objective("judge", failing_at("judge", judged), rules[0]),
            Objective("maker", failing_at("maker", made), rules[1]),
        ]
        return Learner.of(gan(), DataLoaders(data(), data()), objectives=objectives, subs=subs)

    failing[0] = True
    learner = of(*([Stops()] if where == "after_batch" else [Keeps(), Stops()] if where == "cancelled" else []))
    if where == "cancelled":
        outcome = learner.fit(1, print_stats=False)
        assert isinstance(outcome, Cancelled)
        reached = outcome.state
    else:
        with pytest.raises(FailsError) as caught:
            learner.fit(1, print_stats=False)
        found = state_before(caught.value)
        assert found is not None
        reached = found
    failing[0] = False
    straight = of()
    state = straight.init(0, epochs=1)
    while (state.progress.at, state.progress.batch) != ("batch", at):
        state = advance(straight, state).state
    assert {**reached.params}.keys() == {**state.params}.keys()
    assert reached.tensors == state.tensors
    if where != "cancelled":
        assert fit_step(of(), reached).state == fit_step(straight, state).state


def test_a_cancelled_batch_is_not_written() -> None:
    class Skips(Subscriber[Tensor, Any]):
        def before_batch(self, state: TrainState, batch: Tensor) -> Any:
            return CancelBatch(reason="no") if state.progress.batch == 1 else state

    state = learner_of(data(), subs=[Skips()]).fit(1, print_stats=False).state
    assert state.progress.step == 2


@pytest.mark.sweep
def test_a_compiled_learner_of_several_is_the_same() -> None:
    engine = Engine(compile={"backend": "eager"})  # with SGD: a compiled Adam rounds otherwise
    plain, compiled = (learner_of(data(), "sgd", engine=one) for one in (Engine(), engine))
    assert plain.fit(1, print_stats=False).state == compiled.fit(1, print_stats=False).state


def rule(params: Any = "*", **named: Any) -> Any:
    """Make an optimizer's rule."""
    return optimizer(torch.optim.SGD, lr=0.1, params=params, **named)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: [], "objectives is empty"),
        (lambda: Objective("one", judged, rule()), r"expected a list, like objectives=\["),
        (lambda: [judged], r"expected Objective\(name, task, update\)"),
        (
            lambda: [Objective("one", judged, rule("judge.*")), Objective("one", made, rule("maker.*"))],
            "are named 'one'",
        ),
        (lambda: [Objective("loss", judged, rule())], "An objective is named 'loss'"),
        (lambda: [Objective("a b", judged, rule())], "An objective is named 'a b'"),
        (lambda: [Objective("one", 3, rule())], "task is 3"),  # type: ignore[arg-type] # the mistake
        (lambda: [Objective("one", judged, torch.optim.SGD)], "Got the class SGD"),  # type: ignore[arg-type] # same
        (lambda: [Objective("one", supervised(bce, {"bce": bce}), rule())], "has metrics; with objectives they are"),
        (
            lambda: [Objective("one", judged, rule("judge.*")), Objective("two", made, rule())],
            "trained by two objectives, 'one' and 'two'",
        ),
        (
            lambda: [
                Objective("one", judged, chain(accumulate(2), rule("judge.*"))),
                Objective("two", made, rule("maker.*")),
            ],
            "The update of objective 'one' makes a step of several batches",
        ),
        (
            lambda: [Objective("one", judged, optimizer(torch.optim.LBFGS, params="judge.*"))],
            "The update of objective 'one' evaluates the model itself",
        ),
    ],
)
def test_what_is_wrong_is_told_before_the_first_step(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Learner.of(gan(), DataLoaders(data(), data()), objectives=make()).init()


def test_a_loss_that_reaches_none_of_its_own_parameters_is_told() -> None:
    def detached(model: Gan, real: Tensor) -> StepOutput[Tensor]:
        told = model.judge(model.maker(torch.randn(len(real), CODE)).detach())  # as for the judge, by mistake
        return StepOutput(bce(told, torch.ones_like(told)), told)

    both = [Objective("judge", judged, rule("judge.*")), Objective("maker", detached, rule("maker.*"))]
    learner = Learner.of(gan(), DataLoaders(data()), objectives=both)
    with pytest.raises(LossError, match=r"task \S*detached returned depends on none .* to train: maker") as told:
        fit_step(learner, learner.init(), epochs=1)
    before = state_before(told.value)
    assert before is not None
    assert before.tensors == learner.init().tensors  # the judge has not learned from the batch either


class Scales:
    """Scales the loss, and the gradients back: no bit is lost."""

    def bind(self, params: dict[str, Tensor], /) -> BoundRule:
        return BoundScales()


class BoundScales:
    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}

    def loss(self, loss: Tensor, /) -> Tensor:
        return loss * 1024.0

    def write(self, gradients: Gradients, at: At, /) -> bool:
        for gradient in gradients.values():
            gradient.div_(1024.0)
        return True


@pytest.mark.parametrize("scaled", ["judge", "maker", "both"])
def test_a_rule_may_scale_an_objective_s_loss(scaled: str) -> None:
    def fitted(*names: str) -> TrainState:
        rules = {name: chain(*([Scales()] if name in names else []), rule(f"{name}.*")) for name in ("judge", "maker")}
        both = [Objective("judge", judged, rules["judge"]), Objective("maker", made, rules["maker"])]
        return Learner.of(gan(), DataLoaders(data(), data()), objectives=both).fit(2, print_stats=False).state

    plain, other = fitted(), fitted(*(("judge", "maker") if scaled == "both" else (scaled,)))
    assert all(torch.equal(param, plain.params[name]) for name, param in other.params.items())
    assert other.history == plain.history


@pytest.mark.parametrize("weights", [(2, 3), (None, 3), (3, torch.tensor(3.0))])
def test_objectives_that_weigh_a_batch_differently_are_told(weights: tuple[Any, Any]) -> None:
    def weighing(task: Any, weight: Any) -> Any:
        return lambda model, batch: dataclasses.replace(task(model, batch), weight=weight)

    both = [
        Objective("judge", weighing(judged, weights[0]), rule("judge.*")),
        Objective("maker", weighing(made, weights[1]), rule("maker.*")),
    ]
    learner = Learner.of(gan(), DataLoaders(data()), objectives=both)
    if weights[0] == 2:
        with pytest.raises(DataError, match="The objectives weigh a batch differently: judge 2, maker 3"):
            learner.fit(1, print_stats=False)
    else:
        assert learner.fit(1, print_stats=False).state.history[0].samples == 3 * len(data())


def test_objectives_beside_a_task_are_refused() -> None:
    with pytest.raises(ConfigError, match="given beside objectives"):
        learner_of(data()).replace(task=judged)
