"""Precision: the bits of a loop by hand under torch's autocast and GradScaler, with the scale in the state."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nntrain import (
    BatchOutput,
    DataLoaders,
    Engine,
    EpochStats,
    Learner,
    Objective,
    StepOutput,
    Subscriber,
    TrainState,
    Transition,
    advance,
    evaluate,
    fit_step,
    predict,
    supervised,
)
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError, ConfigWarning
from nntrain.update import UpdateRule, accumulate, chain, clip_norm, ema, loss_scale, optimizer
from tests.sampled import one_in

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA: list[Batch] = [
    (torch.randn(8, 6, generator=SOURCE), torch.randint(0, 3, (8,), generator=SOURCE)) for _ in range(6)
]
ADAM = optimizer(torch.optim.Adam, lr=0.05)
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 3))


def learner_of(
    precision: Any, update: UpdateRule = ADAM, subs: Any = (), sinks: Any = (), **more: Any
) -> Learner[Batch]:
    engine = Engine(precision=precision, **more)
    task = supervised(cross_entropy)
    return Learner.of(make_model(), DataLoaders(DATA, DATA[:2]), task, update, subs=subs, sinks=sinks, engine=engine)


def by_hand(dtype: torch.dtype, scaler: torch.amp.GradScaler, epochs: int = 2) -> tuple[nn.Module, list[float], int]:
    """Train in a loop by hand; return the model, each batch's loss, and how many steps were skipped."""
    model = make_model().train()
    optim = torch.optim.Adam(model.parameters(), 0.05)
    losses, skipped = [], 0
    for _ in range(epochs):
        for x, y in DATA:
            with torch.autocast("cpu", dtype):
                loss = cross_entropy(model(x), y)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            before = scaler.get_scale()
            scaler.step(optim)
            scaler.update()
            skipped += scaler.get_scale() < before
            optim.zero_grad()
            losses.append(loss.item())
    return model, losses, skipped


class Told:
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.told: list[dict[str, float]] = []
        self.types: set[torch.dtype] = set()

    def __call__(self, transition: Transition, /) -> None:
        if transition.output is not None and transition.progress.phase == "train":
            self.losses.append(float(transition.output.loss))
            self.told.append({name: float(one) for name, one in transition.output.told.items()})
            assert isinstance(transition.output.preds, Tensor)
            self.types.add(transition.output.preds.dtype)


def assert_same(state: TrainState, model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        found = state.params[name] if name in state.params else state.buffers[name]
        assert torch.equal(found, tensor), name
        assert found.dtype == tensor.dtype


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fit_is_the_loop_under_autocast(precision: str) -> None:
    told = Told()
    state = learner_of(precision, sinks=[told]).fit(2, print_stats=False).state
    off = torch.amp.GradScaler("cpu", enabled=False)
    if precision == "fp32":
        model = make_model().train()
        optim = torch.optim.Adam(model.parameters(), 0.05)
        for x, y in DATA * 2:
            optim.zero_grad()
            cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            optim.step()
    else:
        model, losses, _ = by_hand(torch.bfloat16, off)
        assert told.losses == losses
    assert_same(state, model)
    assert told.types == {TYPES.get(precision, torch.float32)}


@pytest.mark.parametrize(("first", "growth_interval"), [(65536.0, 2000), (2.0**24, 3)])
def test_a_fit_in_fp16_is_the_loop_with_a_scaler(first: float, growth_interval: int) -> None:
    told = Told()
    rule = chain(loss_scale(first, interval=growth_interval), ADAM)
    state = learner_of("fp16", ADAM if first == 65536.0 else rule, sinks=[told]).fit(2, print_stats=False).state
    scaler = torch.amp.GradScaler("cpu", init_scale=first, growth_interval=growth_interval)
    model, losses, skipped = by_hand(torch.float16, scaler)
    assert_same(state, model)
    assert told.losses == losses  # as the task gave it
    assert sum(one["skipped"] for one in told.told) == skipped
    assert bool(skipped) == (first > 65536.0)
    assert told.told[0]["loss_scale"] == first
    memory = state.tensors.snapshot().optim.rules["loss_scale"]
    assert memory["scale"].item() == scaler.get_scale()
    assert state.progress.step == 12  # what is skipped is counted as a step


WHOLE = chain(loss_scale(2.0**20, interval=2), accumulate(2), clip_norm(0.5), ADAM, ema(0.9))


@pytest.mark.sweep
@pytest.mark.parametrize("precision", one_in(2, ["fp16", "bf16"]))
def test_any_transition_is_gone_on_from_by_a_new_learner(precision: str, tmp_path: Path) -> None:
    rule = WHOLE if precision == "fp16" else chain(accumulate(2), clip_norm(0.5), ADAM, ema(0.9))
    learner = learner_of(precision, rule)
    straight = fit_step(learner, learner.init(0), 2).state
    state, path = learner.init(0, epochs=2), tmp_path / "state.safetensors"
    while state.progress.at != "finished":
        save(state, path)
        new = learner_of(precision, rule)
        assert load(path, new) == state
        if state.progress.batch % 2:
            assert fit_step(new, load(path, new)).state == straight
        state = advance(learner, state).state
    assert state == straight


def test_evaluate_and_predict_compute_as_eval_does() -> None:
    learner = learner_of("bf16")
    outcome = learner.fit(1, print_stats=False)
    stats: EpochStats = evaluate(learner, outcome.state)
    assert stats.loss == outcome.state.history[-1].loss
    model = outcome.state.to_module()
    for found, (x, _) in zip(predict(learner, outcome.state, DATA[:2]), DATA[:2], strict=True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(found, model(x))
        assert found.dtype == torch.bfloat16


def test_what_autocast_has_cast_does_not_outlive_a_step() -> None:
    plain = learner_of("bf16").fit(2, print_stats=False).state
    with torch.autocast("cpu", torch.bfloat16):  # whose cache would be kept until its end
        assert learner_of("bf16").fit(2, print_stats=False).state == plain


def test_objectives_are_scaled_each_by_itself() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def task(name: str) -> Any:
        def run(model: Two, batch: Batch) -> StepOutput[Tensor]:
            preds = getattr(model, name)(batch[0])
            return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1])

        return run

    sgd = {name: optimizer(torch.optim.SGD, lr=0.1, params=f"{name}.*") for name in "ab"}
    objectives = [Objective(name, task(name), sgd[name]) for name in "ab"]
    learner = Learner.of(Two(), DataLoaders(DATA, None), objectives=objectives, engine=Engine(precision="fp16"))
    state = learner.fit(1, print_stats=False).state
    model = Two()
    for name in "ab":
        optim = torch.optim.SGD(getattr(model, name).parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu")
        for x, y in DATA:
            with torch.autocast("cpu", torch.float16):
                loss = cross_entropy(getattr(model, name)(x), y)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            scaler.step(optim)
            scaler.update()
            optim.zero_grad()
    assert_same(state, model)


class Looks(Subscriber[Batch]):
    def __init__(self) -> None:
        self.seen: set[str] = set()

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        self.seen.add(torch.get_float32_matmul_precision())
        if state.progress.step == 3:
            raise ValueError("enough")
        return state


def test_the_precision_of_products_is_that_of_the_steps_alone() -> None:
    before = torch.get_float32_matmul_precision()
    looks = Looks()
    with pytest.raises(ValueError, match="enough"):
        learner_of("fp32", subs=[looks], float32_matmul="medium").fit(1, print_stats=False)
    assert looks.seen == {"medium"}
    assert torch.get_float32_matmul_precision() == before


def test_what_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match=r"precision is 'bf8'; expected 'fp32' or 'bf16' or 'fp16'"):
        Engine(precision="bf8")  # type: ignore[arg-type] # a mistake
    with pytest.raises(ConfigError, match="float32_matmul is 'low'; expected None or 'highest'"):
        Engine(float32_matmul="low")  # type: ignore[arg-type] # a mistake
    with pytest.raises(ConfigError, match=r"first is 0; expected a finite number above 0"):
        loss_scale(0)
    with pytest.raises(ConfigError, match=r"growth is 0\.5.*expected 1 or more"):
        loss_scale(growth=0.5)
    with pytest.raises(ConfigError, match=r"loss_scale\(65536\) stands after clip_norm.*put it first"):
        chain(clip_norm(1.0), loss_scale(), ADAM)
    halves = Learner.of(
        nn.Linear(6, 1).half(), DataLoaders(DATA, None), supervised(mse_loss), ADAM, engine=Engine(precision="fp16")
    )
    with pytest.raises(
        ConfigError, match=r"which float16 has no room for: weight, bias\. Keep the parameters in float"
    ):
        halves.init()


def test_replacing_the_device_keeps_the_precision() -> None:
    learner = learner_of("bf16", float32_matmul="high")
    changed = learner.replace(capture=True)
    assert changed.engine == Engine(precision="bf16", float32_matmul="high", capture=True)
    assert learner.replace(sinks=()).engine == learner.engine
    assert learner.replace(engine=Engine()).engine == Engine()
    assert changed.replace(engine=Engine(precision="fp16")).capture is False


def test_recorded_passes_compute_in_it_too(tapes: None) -> None:
    assert learner_of("bf16", capture=True).fit(3, print_stats=False) == learner_of("bf16").fit(3, print_stats=False)


@pytest.mark.sweep
def test_compiled_passes_compute_in_it_too() -> None:
    told = Told()
    state = learner_of("bf16", sinks=[told], compile=True).fit(2, print_stats=False).state
    plain = learner_of("bf16").fit(2, print_stats=False).state
    assert told.types == {torch.bfloat16}
    assert abs(state.history[-1].loss - plain.history[-1].loss) < 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_processor_that_computes_it_slowly_is_warned_of(
    precision: Literal["bf16", "fp16"], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def keep(transition: Transition) -> None:
        told.extend(note.code for note in transition.notes)

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    learner = Learner.of(nn.Linear(6, 3), DataLoaders(DATA, DATA), supervised(cross_entropy), ADAM, sinks=[keep])
    with pytest.warns(ConfigWarning, match=rf"precision is '{precision}', for which this processor \(AVX2\) has no"):
        learner.replace(engine=Engine(device="cpu", precision=precision)).fit(1, print_stats=False)
    assert told == ["precision.slow"]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with warnings.catch_warnings(action="error"):
        learner.replace(engine=Engine(device="cpu", precision=precision)).init()
