"""The learning rate's scale is part of a state: scaled steps are the hand-written loop's, wherever they go on from."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    BatchOutput,
    DataLoaders,
    Learner,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    epoch_step,
    fit_step,
    on,
    state_before,
)
from nntrain.errors import ConfigError
from nntrain.live.recorded import Recorded
from nntrain.log import JsonLog
from nntrain.values.bits import same_bits
from nntrain.values.verdicts import Event
from tests.laws.strategies import Kept
from tests.live.test_compiled import Counted
from tests.sampled import TRIES
from tests.tape import TapeRecorder
from tests.update.test_optimizers import CLASSES, WORDS, made

Batch = tuple[Tensor, Tensor]
Make = Callable[..., torch.optim.Optimizer]
Rate = float | Callable[[int], float]
EVENTS: tuple[Event, ...] = (
    "before_fit",
    "before_epoch",
    "before_batch",
    "after_batch",
    "after_epoch",
    "after_fit",
)
EPOCHS = 3
STEPS = EPOCHS * len(WORDS)


def falling(step: int) -> float:
    return 0.1 / (1 + step)


def scaling(event: Event, at: int, factor: float, scaled_from: list[int] | None = None) -> Subscriber[Batch]:
    """Scale once, at the first such event at which `at` steps lie behind. A function of the state, as all are."""

    def scale(state: TrainState, *_: object) -> TrainState:
        if state.lr_scale != 1.0 or state.progress.step < at:
            return state
        if scaled_from is not None:
            scaled_from.append(state.progress.step)
        return state.scale_lr(factor)

    subscribe: Any = on  # whose types ask for one event at a time
    subscriber: Subscriber[Batch] = subscribe(event)(scale)
    return subscriber


def learner_of(
    make: Make = torch.optim.SGD, lr: Rate = 0.05, *, model: nn.Module | None = None, **changes: Any
) -> Learner[Any]:
    options: dict[str, Any] = {
        "model": made(torch.optim.SGD)[0] if model is None else model,
        "dls": DataLoaders(WORDS, WORDS[:2]),
        "loss_fn": cross_entropy,
        "metric_fn": accuracy,
        "optim_class": make,
        "lr": lr,
        **changes,
    }
    return Learner(**options)


def by_hand(
    make: Make,
    factors: Mapping[int, float],
    lr: Rate = 0.05,
    *,
    model: nn.Module | None = None,
    steps: int = STEPS,
) -> nn.Module:
    """Train as anybody would: `factors` says what each group's rate is multiplied with from which step on."""
    model = made(torch.optim.SGD)[0] if model is None else model
    optimizer: Any = make(list(model.parameters()), lr=lr(0) if callable(lr) else lr)
    ratios = [float(group["lr"]) / lr(0) if callable(lr) else 1.0 for group in optimizer.param_groups]
    scale = 1.0
    for step in range(steps):
        words, target = WORDS[step % len(WORDS)]
        factor = factors.get(step, 1.0)
        scale *= factor
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = lr(step) * ratio * scale if callable(lr) else group["lr"] * factor

        def closure(words: Tensor = words, target: Tensor = target) -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model(words), target)
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            return loss

        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)  # type: ignore[no-untyped-call] # torch leaves it untyped
        else:
            closure()
            optimizer.step()
    return model


def check(state: TrainState, model: nn.Module) -> None:
    """Fail where the weights differ in a bit."""
    for name, param in model.named_parameters():
        assert same_bits(state.params[name], param.detach()), name


def in_groups(params: Any, *, lr: float, momentum: float = 0.9) -> torch.optim.Optimizer:
    """Two groups with rates of their own."""
    one, *others = params
    return torch.optim.SGD(
        [{"params": [one], "lr": lr}, {"params": others, "lr": lr / 3, "momentum": 0.5}], lr=lr, momentum=momentum
    )


def with_tensor(params: Any, *, lr: float) -> torch.optim.Optimizer:
    """A tensor for a rate, the same for two groups, as torch makes it."""
    one, *others = params
    return torch.optim.Adam([{"params": [one]}, {"params": others}], lr=torch.tensor(lr, dtype=torch.float64))


class Halving(torch.optim.SGD):
    """Changes its rate itself: it is part of what it remembers."""

    def step(self, closure: Any = None) -> Any:
        super().step()
        for group in self.param_groups:
            group["lr"] *= 0.5


class TensorHalving(Halving):
    """The same with a tensor, which it changes in place."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=torch.tensor(lr, dtype=torch.float64))


class HalvingAnew(torch.optim.SGD):
    """The same with a tensor, in whose place it puts another."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=torch.tensor(lr, dtype=torch.float64))

    def step(self, closure: Any = None) -> Any:
        super().step()
        for group in self.param_groups:
            group["lr"] = group["lr"] * 0.5


MAKES: dict[str, Make] = {
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "lbfgs": functools.partial(torch.optim.LBFGS, max_iter=3),
    "groups": in_groups,
    "tensor": with_tensor,
    "halving": Halving,
    "tensor halving": TensorHalving,
    "halving anew": HalvingAnew,
}
makes = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
FEW = {"SGD", "AdamW", "Rprop"}
"""What is tried always; the sweep tries all others that torch has."""
optim_classes = pytest.mark.parametrize(
    "optim_class",
    [pytest.param(one, id=one.__name__, marks=[pytest.mark.sweep] * (one.__name__ not in FEW)) for one in CLASSES],
)


# -- the hand-written loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [0.05, falling], ids=["constant", "schedule"])
@optim_classes
@settings(max_examples=TRIES // 4)
@given(event=st.sampled_from(EVENTS), at=st.integers(0, STEPS), factor=st.sampled_from([0.3, 0.5, 3.0, 0.0]))
def test_scaled_at_any_event_it_is_the_hand_written_loop(
    optim_class: type[torch.optim.Optimizer], lr: Rate, event: Event, at: int, factor: float
) -> None:
    model, make = made(optim_class)
    scaled_from: list[int] = []
    learner = learner_of(make, lr, model=model, subs=[scaling(event, at, factor, scaled_from)])
    state = fit_step(learner, learner.init(), 2).state
    state = fit_step(learner, state, 1).state  # what is scaled after a fit holds in the next
    assert state.lr_scale == (factor if scaled_from else 1.0)
    check(state, by_hand(make, dict.fromkeys(scaled_from, factor), lr, model=model))


@pytest.mark.parametrize("lr", [0.05, falling], ids=["constant", "schedule"])
@makes
@pytest.mark.parametrize(
    "at", [pytest.param(at, marks=[pytest.mark.sweep] * (at not in {0, 3, STEPS - 1})) for at in range(STEPS)]
)
def test_scaled_at_any_step_whatever_the_groups_hold(make: Make, lr: Rate, at: int) -> None:
    learner = learner_of(make, lr, subs=[scaling("before_batch", at, 0.5)])
    check(learner.fit(EPOCHS, print_stats=False).state, by_hand(make, {at: 0.5}, lr))


@makes
def test_scaled_between_two_fits(make: Make) -> None:
    learner = learner_of(make)
    state = fit_step(learner, learner.init(), 1).state.scale_lr(0.5)
    check(fit_step(learner, state, 2).state, by_hand(make, {3: 0.5}))


@pytest.mark.parametrize("lr", [0.05, falling], ids=["constant", "schedule"])
@makes
def test_factors_add_up_to_a_scale_and_back_to_one(make: Make, lr: Rate) -> None:
    factors = {1: 0.5, 3: 0.25, 4: 2.0, 6: 4.0}
    states: list[TrainState] = []

    @on("before_batch")
    def scale(state: TrainState, batch: Batch) -> TrainState:
        place = state.progress
        return state.scale_lr(factors[place.step]) if place.phase == "train" and place.step in factors else state

    learner = learner_of(make, lr, subs=[scale], sinks=[lambda transition: states.append(transition.state)])
    state = learner.fit(EPOCHS, print_stats=False).state
    assert [one.lr_scale for one in states if one.progress.at == "batch" and one.progress.phase == "train"] == [
        *[1.0, 1.0, 0.5, 0.5],
        *[0.5, 0.125, 0.25, 0.25],
        *[0.25, 1.0, 1.0, 1.0],
    ]
    check(state, by_hand(make, factors, lr))


def test_a_scale_of_none_stops_the_weights_and_not_the_momentum() -> None:
    learner = learner_of(MAKES["momentum"])
    state = fit_step(learner, learner.init(), 1).state
    stopped = fit_step(learner, state.scale_lr(0.0), 1).state
    assert same_bits(dict(stopped.params), dict(state.params))
    assert stopped.tensors != state.tensors
    assert stopped.scale_lr(7.0).lr_scale == 0.0


@makes
@pytest.mark.parametrize("lr", [1, 0.5])
def test_what_was_scaled_back_is_no_change_that_the_optimizer_remembers(make: Make, lr: float) -> None:
    """A rate given as a whole number included, which is not the same value as a float."""
    learner = learner_of(make, lr)
    plain = learner.init(epochs=1)
    scaled = copy.deepcopy(plain)
    while plain.progress.step < 1:
        plain, scaled = advance(learner, plain).state, advance(learner, scaled).state
    scaled = advance(learner, scaled.scale_lr(0.5)).state.scale_lr(2.0)
    scaled, plain = advance(learner, scaled).state, advance(learner, advance(learner, plain).state).state
    assert scaled.progress == plain.progress
    remembered = [one.tensors.read(lambda tensors: copy.deepcopy(tensors.optim.groups)) for one in (scaled, plain)]
    assert same_bits(*remembered)


# -- a value -----------------------------------------------------------------------------------------------------------


def test_states_that_differ_in_the_scale_alone_differ() -> None:
    state = learner_of().init()
    assert state.lr_scale == 1.0
    assert state.scale_lr(0.5) != state
    assert state.scale_lr(0.5) == state.scale_lr(0.5)
    assert state.scale_lr(0.5).scale_lr(2.0) == state
    assert state.lr_scale == 1.0
    assert copy.deepcopy(state.scale_lr(0.5)) == state.scale_lr(0.5)
    assert state.scale_lr(2).lr_scale == 2.0
    assert "lr_scale" in str(state.diff(state.scale_lr(0.5)))


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf, -1, -0.5, True, False, "x", None, 1e400])
def test_what_is_no_factor_is_refused(factor: Any) -> None:
    with pytest.raises(ConfigError, match=r"scale_lr takes a finite number of 0 or more, like 0.5; got"):
        learner_of().init().scale_lr(factor)


def test_factors_that_come_to_no_number_are_refused() -> None:
    with pytest.raises(ConfigError, match="scale_lr takes"):
        learner_of().init().scale_lr(1e200).scale_lr(1e200)


@pytest.mark.parametrize("lr", [0.05, falling], ids=["constant", "schedule"])
@makes
def test_going_back_to_a_kept_state_with_another_scale(make: Make, lr: Rate) -> None:
    learner = learner_of(make, lr)
    state = learner.init(epochs=EPOCHS)
    while state.progress.step < 2:
        state = advance(learner, state).state
    kept = Kept(state)
    for scale in (0.5, 1.0, 0.25, 0.25, 0.0, 1.0, 2.0):
        check(fit_step(learner, state.scale_lr(scale)).state, by_hand(make, {2: scale} if scale != 1.0 else {}, lr))
        kept.check()
    other = learner_of(make, lr)
    assert fit_step(other, copy.deepcopy(state.scale_lr(0.5))).state == fit_step(learner, state.scale_lr(0.5)).state


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("lr", [0.05, falling], ids=["constant", "schedule"])
@makes
def test_resumed_at_any_transition(make: Make, lr: Rate, listening: bool) -> None:
    """From a copy that shares nothing with it, in another learner."""
    event: Event = "before_batch" if listening else "before_epoch"
    learner, other = (learner_of(make, lr, subs=[scaling(event, 2, 0.3)]) for _ in range(2))
    state = learner.init(epochs=2)
    copies = []
    while state.progress.at != "finished":
        copies.append(copy.deepcopy(state))
        state = advance(learner, state).state
    assert state.lr_scale == 0.3
    for one in copies:
        assert fit_step(other, one).state == state
    assert learner.fit(2, print_stats=False).state == state


class Failing(torch.optim.SGD):
    """Fails once, before it writes anything, or in the middle of it."""

    def __init__(self, params: Any, lr: float, failing: Callable[[], bool]) -> None:
        super().__init__(params, lr=lr, momentum=0.9)
        self.failing = failing

    def step(self, closure: Any = None) -> Any:
        if self.failing():
            raise MemoryError
        return super().step()


def at_step(*failures: int) -> Callable[[], bool]:
    """Return what says whether a call is one of those. Its count is no optimizer's, and no part of a state."""
    steps = itertools.count(1)
    return lambda: next(steps) in failures


def test_a_step_that_failed_leaves_the_rate_as_it_was() -> None:
    learner = learner_of(functools.partial(Failing, failing=at_step(4)))
    half = fit_step(learner, learner.init(), 1).state.scale_lr(0.5)
    kept = copy.deepcopy(half)
    with pytest.raises(MemoryError) as caught:
        fit_step(learner, half, 1)
    del half
    before = state_before(caught.value)
    expected = fit_step(learner_of(functools.partial(Failing, failing=at_step())), kept, 1).state
    again = kept if before is None else before
    assert again.lr_scale == 0.5
    assert fit_step(learner, again, None if before is not None else 1).state == expected
    # nor does it stay in the groups for a state without a scale
    check(fit_step(learner, learner.init(), EPOCHS).state, by_hand(MAKES["momentum"], {}))


class Peeks(Subscriber[Batch]):
    """Reads the new weights early, in a mode of its own, from the step numbered `at` on."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        with torch.inference_mode(state.progress.step == self.at):
            assert state.params
        return state


@pytest.mark.parametrize("make", [MAKES["momentum"], with_tensor], ids=["momentum", "tensor"])
def test_scaled_steps_may_be_read_in_any_mode(make: Make) -> None:
    learner = learner_of(make, subs=[scaling("before_batch", 4, 0.5), Peeks(5)])
    check(learner.fit(EPOCHS, print_stats=False).state, by_hand(make, {4: 0.5}))


# -- faster steps ------------------------------------------------------------------------------------------------------


def compiled_of(make: Make, options: Any, subs: Sequence[Subscriber[Batch]] = ()) -> Learner[Any]:
    torch.compiler.reset()
    return learner_of(make, compile=options, subs=subs)


@pytest.mark.sweep
@optim_classes
def test_compiled_steps_are_scaled_alike(optim_class: type[torch.optim.Optimizer]) -> None:
    model, make = made(optim_class)
    states = []
    for options in (False, {"backend": "eager"}):
        torch.compiler.reset()
        learner = learner_of(make, model=model, compile=options, subs=[scaling("before_batch", 4, 0.3)])
        states.append(learner.fit(2, print_stats=False).state)
    plain, compiled = (dict(state.params) for state in states)
    for name, tensor in plain.items():
        # Muon's iterations in bfloat16 make a traced kernel's last bit (torch 2.11) 0.008 of a weight, by hand too.
        assert torch.allclose(compiled[name], tensor, atol=1e-2 if optim_class is torch.optim.Muon else 1e-4), name
        assert compiled[name].isfinite().all()


@pytest.mark.sweep
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductors_code_is_scaled_and_always_the_same() -> None:
    make = MAKES["momentum"]
    subs = [scaling("before_batch", 4, 0.25)]
    learner = compiled_of(make, True, subs)
    state = learner.fit(2, print_stats=False).state
    for name, param in by_hand(make, {4: 0.25}, steps=6).named_parameters():
        assert torch.allclose(state.params[name], param.detach(), atol=1e-5), name
    assert learner.fit(2, print_stats=False).state == state


@pytest.mark.sweep
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(MAKES["momentum"], id="momentum"),
        pytest.param(torch.optim.Adam, id="adam", marks=pytest.mark.sweep),
        pytest.param(with_tensor, id="tensor", marks=pytest.mark.sweep),
    ],
)
def test_a_compiled_training_resumes_with_its_bits(make: Make) -> None:
    learner = compiled_of(make, {"backend": "aot_eager"}, [scaling("before_batch", 2, 0.3)])
    state = learner.init(epochs=2)
    copies = []
    while state.progress.at != "finished":
        copies.append(copy.deepcopy(state))
        state = advance(learner, state).state
    for one in copies:
        if one.progress.step:  # each time that the optimizer's memory is made, torch compiles anew, and not for ever
            assert fit_step(learner, one).state == state
    other = learner_of(make, compile={"backend": "aot_eager"}, subs=learner.subs)
    assert fit_step(other, copies[5]).state == state


@pytest.mark.sweep
def test_many_scales_compile_nothing_anew() -> None:
    """torch gives up on code that was compiled eight times, and its plain kernels round otherwise."""

    def graphs(scales: int) -> int:
        backend = Counted()

        @on("before_batch")
        def scale(state: TrainState, batch: Batch) -> TrainState:
            place = state.progress
            return state.scale_lr(0.9) if place.phase == "train" and place.step in range(1, 1 + scales) else state

        compiled_of(torch.optim.Adam, {"backend": backend}, [scale]).fit(5, print_stats=False)
        return backend.graphs

    assert graphs(14) == graphs(1)
    assert graphs(1) <= graphs(0) + 1


def recorded_write(learner: Learner[Any]) -> list[bool]:
    """Tell of each recorded shape in training whether the optimizer's step is launched, too."""
    engine = learner.machine.engine
    assert isinstance(engine, Recorded)
    memory = learner.machine.workspace.optimizer.generation
    return [
        one.write._launch is not None and one.write._decided == memory
        for (train, _), one in engine._recordings.items()
        if train and one is not None
    ]


@pytest.fixture
def recordings(tapes: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what is recorded."""
    made: list[int] = []
    record = TapeRecorder.record

    def counted(self: TapeRecorder, function: Callable[[], None]) -> Callable[[], None]:
        made.append(1)
        return record(self, function)

    monkeypatch.setattr(TapeRecorder, "record", counted)
    return made


SHAPED = [WORDS[0]] * 8


def dense() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))


CAPTURED: dict[str, tuple[Make, bool]] = {
    "sgd": (torch.optim.SGD, True),
    "momentum": (MAKES["momentum"], True),
    "groups": (in_groups, True),
    "adagrad": (torch.optim.Adagrad, False),
    "adam": (torch.optim.Adam, False),
    "tensor": (lambda params, lr: torch.optim.SGD(params, lr=torch.tensor(lr, dtype=torch.float64)), False),
    "halving": (Halving, False),
    "tensor halving": (TensorHalving, False),
}
"""Makers, and whether the CPU's recorder takes their steps."""


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("at", [0, 3, *(pytest.param(at, marks=pytest.mark.sweep) for at in (1, 2, 8, 15))])
@pytest.mark.parametrize("name", CAPTURED)
def test_recorded_steps_are_scaled_alike(recordings: list[int], name: str, at: int, listening: bool) -> None:
    make, recorded = CAPTURED[name]
    subs = [scaling("before_batch" if listening else "before_epoch", at, 0.5)]
    options: dict[str, Any] = {"dls": DataLoaders(SHAPED, SHAPED[:1]), "subs": subs}
    plain = learner_of(make, model=dense(), **options).fit(3, print_stats=False).state
    assert plain.lr_scale == 0.5
    learner = learner_of(make, model=dense(), capture=True, **options)
    assert learner.fit(3, print_stats=False).state == plain
    assert recorded_write(learner) == [recorded]
    assert learner.fit(3, print_stats=False).state == plain


def test_a_recording_holds_the_rate_and_is_made_anew_for_another(recordings: list[int]) -> None:
    learner = learner_of(MAKES["momentum"], model=dense(), dls=DataLoaders(SHAPED, SHAPED[:1]), capture=True)
    state = learner.init(epochs=1)
    scales = [1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0]
    counts = []
    state = advance(learner, advance(learner, state).state).state
    for scale in scales:
        state = advance(learner, state.scale_lr(scale)).state
        counts.append(len(recordings))
    # the pass with the second batch, the step with the third; a step with another rate is first taken plainly
    assert counts == [0, 1, 2, 2, 3, 3, 3]
    assert recorded_write(learner) == [True]


def test_a_tensor_in_a_recording_has_the_scaled_rate(device: torch.device, tapes: None) -> None:
    """Where a schedule fills a tensor, one recording does for all rates, scaled or not."""

    def make(params: Any, *, lr: float) -> torch.optim.Optimizer:
        rate = torch.tensor(lr, device=device)
        if device.type == "cpu":
            return torch.optim.SGD(params, lr=rate, foreach=False)
        return torch.optim.Adam(params, lr=rate, capturable=True)

    options: dict[str, Any] = {
        "dls": DataLoaders(SHAPED, SHAPED[:1]),
        "subs": [scaling("before_batch", 5, 0.5)],
        "device": device,
    }
    for lr in (0.05, falling):
        plain = learner_of(make, lr, model=dense(), **options).fit(2, print_stats=False).state
        learner = learner_of(make, lr, model=dense(), capture=True, **options)
        assert learner.fit(2, print_stats=False).state == plain
        assert recorded_write(learner) == [device.type == "cuda"]


# -- what the log says -------------------------------------------------------------------------------------------------


def rates(path: Path) -> list[tuple[str, int, float | None]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["phase"], line["step"], line.get("lr")) for line in lines if line["event"] == "batch_finished"]


class Listens(Subscriber[Batch]):
    """Has each batch told on its own."""

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        return state


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("lr", [0.05, falling], ids=["constant", "schedule"])
def test_the_log_says_the_rate_that_each_step_was_taken_with(
    tmp_path: Path, lr: Rate, event: Event, listening: bool
) -> None:
    path = tmp_path / "log.jsonl"
    scaled_from: list[int] = []
    subs = [scaling(event, 2, 0.3, scaled_from), *([Listens()] if listening else [])]
    with JsonLog(path, every="all") as log:
        learner = learner_of(lr=lr, subs=subs, sinks=[log])
        fit_step(learner, fit_step(learner, learner.init(), 2).state, 1)
    assert len(scaled_from) == 1
    at = {step: (lr(step) if callable(lr) else lr) * (0.3 if step >= scaled_from[0] else 1.0) for step in range(STEPS)}
    told = rates(path)
    assert [one for one in told if one[0] == "train"] == [("train", step + 1, at[step]) for step in range(STEPS)]
    assert [rate for phase, _, rate in told if phase == "eval"] == [None] * 2 * EPOCHS


def test_a_transition_says_what_the_batch_was_scaled_with_and_not_what_the_next_is() -> None:
    told: list[tuple[int, float, float]] = []

    def tell(transition: Transition) -> None:
        if transition.event == "after_batch":
            told.append((transition.state.progress.step, transition.lr_scale, transition.state.lr_scale))

    learner = learner_of(subs=[scaling("after_batch", 2, 0.5)], sinks=[tell])
    epoch_step(learner, learner.init(epochs=1))
    assert told == [(1, 1.0, 1.0), (2, 1.0, 0.5), (3, 0.5, 0.5)]
