"""Deterministic mode: within the steps, and as before after them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import DataLoaders, Engine, Learner, StepOutput, TrainState, evaluate, on, predict, state_before
from nntrain.errors import ConfigError
from nntrain.live.determinism import check_deterministic
from nntrain.update import optimizer

DATA = [(torch.ones(2, 3), torch.ones(2, 1))] * 2


def settings() -> tuple[bool, bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
        cudnn.deterministic,
    )


@pytest.fixture(params=[(False, False, True, False), (True, True, False, True), (True, False, True, True)])
def caller(request: pytest.FixtureRequest) -> Iterator[tuple[bool, ...]]:
    before = settings()

    def put(found: tuple[bool, ...]) -> None:
        torch.use_deterministic_algorithms(found[0], warn_only=found[1])
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = found[2], found[3]

    put(request.param)
    yield request.param
    put(before)


def learner_of(task: Any, *, deterministic: bool = True, **more: Any) -> Learner[Any]:
    engine = Engine(deterministic=deterministic)
    rule = optimizer(torch.optim.SGD, lr=0.1)
    return Learner.of(nn.Linear(3, 1), DataLoaders(DATA, DATA), task, rule, engine=engine, **more)


def test_it_is_on_within_steps_and_as_the_caller_has_it_outside(caller: tuple[bool, ...]) -> None:
    seen: set[tuple[bool, ...]] = set()

    def task(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        seen.add(settings())
        preds = model(batch[0])
        return StepOutput(((preds - batch[1]) ** 2).mean(), preds, batch[1])

    @on("after_epoch")
    def looks(state: TrainState) -> TrainState:
        seen.add(settings())
        return state

    learner = learner_of(task, subs=[looks])
    state = learner.fit(1, print_stats=False).state
    evaluate(learner, state)
    for _ in predict(learner, state, DATA):
        assert settings() == caller
    assert seen == {(True, False, False, True)}
    assert settings() == caller
    seen.clear()
    learner_of(task, deterministic=False).fit(1, print_stats=False)
    assert seen == {caller}


def test_an_operation_without_a_deterministic_form_says_what_to_do(caller: tuple[bool, ...]) -> None:
    def task(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        preds = model(batch[0])
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
        return StepOutput(preds.mean(), preds)

    with pytest.raises(RuntimeError, match="does not have a deterministic implementation") as caught:
        learner_of(task).fit(1, print_stats=False)
    assert any("Engine(deterministic=True) asks for such a form" in note for note in caught.value.__notes__)
    assert state_before(caught.value) is not None
    assert settings() == caller


def test_without_cublas_s_variable_cuda_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8 python"):
        check_deterministic(cuda, wanted=True)
    check_deterministic(cuda, wanted=False)
    check_deterministic(torch.device("cpu"), wanted=True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ConfigError, match="':0:0'"):
        check_deterministic(cuda, wanted=True)
    for fixed in (":4096:8", ":16:8"):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", fixed)
        check_deterministic(cuda, wanted=True)


def test_what_is_no_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="deterministic is 1; expected True or False"):
        Engine(deterministic=1)  # type: ignore[arg-type] # as somebody may write
