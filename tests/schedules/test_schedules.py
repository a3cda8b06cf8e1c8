"""Schedules are torch's, to the last few bits; they are values; and what cannot be meant is an error at once."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler as theirs

from nntrain import DataLoaders, Learner, Objective, Transition, advance, fit_step, supervised
from nntrain.errors import ConfigError, ConfigWarning
from nntrain.schedules import (
    Curve,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    from_torch,
    linear,
    one_cycle,
    one_cycle_momentum,
    polynomial,
    sequence,
    step,
    tuple_of,
    warmup,
    warmup_stable_decay,
)
from nntrain.testing import check_schedule
from nntrain.update import chain, optimizer
from nntrain.update.torch_rule import OptimizerRule
from tests.jobs import check_bits, tensors_of
from tests.sampled import one_in

CLOSE: Final = 1e-12
"""How far a rate may be from torch's, as a share of the highest: torch multiplies step by step."""
Make = Callable[[torch.optim.Optimizer], Any]
RATES = st.floats(1e-6, 10.0)
STEPS = st.integers(1, 60)
SHARES = st.floats(0.0, 1.0)


def by_torch(make: Make, lr: float, last: int, of: str = "lr") -> list[float]:
    """Return the values of torch's scheduler at the steps 0 to `last`."""
    sgd = torch.optim.SGD([torch.zeros(())], lr=lr)
    scheduler = make(sgd)
    values = []
    for _ in range(last + 1):
        values.append(float(sgd.param_groups[0][of]))
        sgd.step()
        scheduler.step()
    return values


def check(schedule: Callable[[int], float], make: Make, lr: float, last: int, of: str = "lr") -> None:
    """Check that a schedule has torch's values at the steps 0 to `last`, and its last one thereafter where it ends."""
    expected = by_torch(make, lr, last, of)
    highest = max(map(abs, expected))
    for step_, value in enumerate(expected):
        assert math.isclose(schedule(step_), value, rel_tol=1e-9, abs_tol=CLOSE * highest), step_


def check_stays(schedule: Callable[[int], float], last: int) -> None:
    assert [schedule(last + more) for more in (1, 2, 1000)] == [schedule(last)] * 3


# -- torch's values ----------------------------------------------------------------------------------------------------


@given(lr=RATES, steps=STEPS, start=st.floats(0.01, 1.0), end=SHARES)
def test_linear(lr: float, steps: int, start: float, end: float) -> None:
    make = partial(theirs.LinearLR, start_factor=start, end_factor=end, total_iters=steps)
    schedule = linear(lr, steps=steps, start=start, end=end)
    check(schedule, make, lr, steps + 5)
    check_stays(schedule, steps)
    assert schedule(steps) == lr * end


@given(lr=RATES, steps=STEPS, end=SHARES)
def test_cosine(lr: float, steps: int, end: float) -> None:
    schedule = cosine(lr, steps=steps, end=end)
    check(schedule, partial(theirs.CosineAnnealingLR, T_max=steps, eta_min=end * lr), lr, steps)
    check_stays(schedule, steps)
    assert schedule(steps) == lr * end


@given(lr=RATES, steps=STEPS, more=STEPS, end=SHARES)
def test_cosine_with_a_warm_up(lr: float, steps: int, more: int, end: float) -> None:
    """`steps` is how many in all. torch's LinearLR cannot begin at 0: LambdaLR is what transformers has it by."""

    def make(sgd: torch.optim.Optimizer) -> theirs.SequentialLR:
        rising = theirs.LambdaLR(sgd, lambda step: step / steps)
        falling = theirs.CosineAnnealingLR(sgd, T_max=more, eta_min=end * lr)
        return theirs.SequentialLR(sgd, [rising, falling], milestones=[steps])

    schedule = cosine(lr, steps=steps + more, warmup_steps=steps, end=end)
    check(schedule, make, lr, steps + more)
    check_stays(schedule, steps + more)
    apart = warmup(cosine(lr, steps=more, end=end), steps=steps)
    assert [apart(one) for one in range(steps + more)] == [schedule(one) for one in range(steps + more)]


@given(lr=RATES, every=st.integers(1, 20), times=st.integers(1, 3), end=SHARES)
def test_cosine_with_restarts(lr: float, every: int, times: int, end: float) -> None:
    schedule = cosine_restarts(lr, every=every, times=times, end=end)
    make = partial(theirs.CosineAnnealingWarmRestarts, T_0=every, T_mult=times, eta_min=end * lr)
    assert [schedule(one) for one in range(100)] == pytest.approx(by_torch(make, lr, 99), rel=1e-12)


@given(lr=RATES, every=st.integers(1, 20), gamma=st.floats(0.1, 1.1))
def test_step(lr: float, every: int, gamma: float) -> None:
    check(step(lr, every=every, gamma=gamma), partial(theirs.StepLR, step_size=every, gamma=gamma), lr, 100)


@given(lr=RATES, gamma=st.floats(0.1, 1.1))
def test_exponential(lr: float, gamma: float) -> None:
    check(exponential(lr, gamma=gamma), partial(theirs.ExponentialLR, gamma=gamma), lr, 100)


@given(lr=RATES, steps=STEPS, power=st.floats(0.1, 4.0))
def test_polynomial(lr: float, steps: int, power: float) -> None:
    schedule = polynomial(lr, steps=steps, power=power)
    check(schedule, partial(theirs.PolynomialLR, total_iters=steps, power=power), lr, steps + 5)
    check_stays(schedule, steps)
    assert schedule(steps) == 0


@given(lr=RATES)
def test_constant(lr: float) -> None:
    check(constant(lr), partial(theirs.ConstantLR, factor=1.0), lr, 10)


def divides_by_zero(steps: int, pct_start: float, phases: int) -> bool:
    """Return whether torch's one-cycle has a phase of no length, in which it divides by zero."""
    ends = [0.0, *([pct_start * steps * n - n for n in (1, 2)][: phases - 1]), steps - 1]
    return any(one == other for one, other in pairwise(ends))


@given(
    lr=RATES,
    steps=st.integers(2, 60),
    pct_start=st.floats(0.0, 0.5),
    strategy=st.sampled_from(["cos", "linear"]),
    div=st.floats(1.0, 50.0),
    final=st.floats(1.0, 1e5),
    three_phase=st.booleans(),
)
def test_one_cycle_with_its_momentum(
    lr: float, steps: int, pct_start: float, strategy: Any, div: float, final: float, three_phase: bool
) -> None:
    if divides_by_zero(steps, pct_start, 3 if three_phase else 2):
        pct_start = 0.3
        if divides_by_zero(steps, pct_start, 3 if three_phase else 2):
            return
    options: dict[str, Any] = {"pct_start": pct_start, "anneal_strategy": strategy, "three_phase": three_phase}
    make = partial(theirs.OneCycleLR, max_lr=lr, total_steps=steps, div_factor=div, final_div_factor=final, **options)
    rate = one_cycle(lr, steps=steps, div_factor=div, final_div_factor=final, **options)
    momentum = one_cycle_momentum(steps=steps, **options)
    assert [rate(one) for one in range(steps)] == by_torch(make, lr, steps - 1)
    assert [momentum(one) for one in range(steps)] == by_torch(make, lr, steps - 1, "momentum")
    check_stays(rate, steps - 1)
    check_stays(momentum, steps - 1)


def test_one_cycle_has_torch_s_defaults() -> None:
    make = partial(theirs.OneCycleLR, max_lr=0.5, total_steps=40)
    assert [one_cycle(0.5, steps=40)(one) for one in range(40)] == by_torch(make, 0.5, 39)


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.5, 1.0])
def test_a_short_cycle_is_whole(steps: int, pct_start: float) -> None:
    """Where torch's would divide by zero, too."""
    rates = [one_cycle(1.0, steps=steps, pct_start=pct_start)(one) for one in range(steps)]
    assert all(0 < rate <= 1.0 for rate in rates)
    assert rates[-1] == (1.0 if pct_start == 1.0 else 1 / 25 / 1e4)


@given(lr=RATES, rising=STEPS, stable=STEPS, falling=STEPS, end=SHARES, decay=st.sampled_from(["linear", "cosine"]))
def test_warm_up_stable_decay(lr: float, rising: int, stable: int, falling: int, end: float, decay: Any) -> None:
    steps = rising + stable + falling

    def make(sgd: torch.optim.Optimizer) -> theirs.SequentialLR:
        last: dict[str, Any] = {
            "linear": lambda: theirs.LinearLR(sgd, 1.0, end, falling),
            "cosine": lambda: theirs.CosineAnnealingLR(sgd, falling, eta_min=end * lr),
        }
        parts = [theirs.LambdaLR(sgd, lambda step: step / rising), theirs.LambdaLR(sgd, lambda _: 1.0), last[decay]()]
        return theirs.SequentialLR(sgd, parts, milestones=[rising, rising + stable])

    schedule = warmup_stable_decay(lr, steps=steps, warmup_steps=rising, decay_steps=falling, end=end, decay=decay)
    check(schedule, make, lr, steps)
    check_stays(schedule, steps)
    longer = warmup_stable_decay(lr, steps=steps + 7, warmup_steps=rising, decay_steps=falling, end=end)
    assert [longer(one) for one in range(rising + stable)] == [schedule(one) for one in range(rising + stable)]


def test_parts_of_no_length_are_left_out() -> None:
    schedule = warmup_stable_decay(1.0, steps=3, warmup_steps=0, decay_steps=0)
    assert [schedule(one) for one in range(5)] == [1.0] * 5
    assert cosine(1.0, steps=2, warmup_steps=0)(0) == 1.0


@given(lr=RATES, first=st.integers(1, 20), second=st.integers(1, 20), gamma=st.floats(0.1, 0.9))
def test_sequences(lr: float, first: int, second: int, gamma: float) -> None:
    def make(sgd: torch.optim.Optimizer) -> theirs.SequentialLR:
        parts = [
            theirs.LinearLR(sgd, 0.5, 1.0, first),
            theirs.StepLR(sgd, 3, gamma),
            theirs.PolynomialLR(sgd, 10, 2.0),
        ]
        return theirs.SequentialLR(sgd, parts, milestones=[first, first + second])

    parts = [
        linear(lr, steps=first, start=0.5, end=1.0),
        step(lr, every=3, gamma=gamma),
        polynomial(lr, steps=10, power=2.0),
    ]
    check(sequence(parts, at=[first, first + second]), make, lr, first + second + 9)


TABLES: dict[str, Make] = {
    "multi step": lambda sgd: theirs.MultiStepLR(sgd, [3, 5, 7], gamma=0.3),
    "cyclic": lambda sgd: theirs.CyclicLR(sgd, 0.01, 0.1, step_size_up=4, mode="triangular2"),
    "lambda": lambda sgd: theirs.LambdaLR(sgd, lambda step: 0.9**step),
    "chained": lambda sgd: theirs.ChainedScheduler([theirs.ConstantLR(sgd, 0.1, 4), theirs.ExponentialLR(sgd, 0.9)]),
    "one cycle": lambda sgd: theirs.OneCycleLR(sgd, 0.5, total_steps=20),
}


@pytest.mark.parametrize("name", TABLES)
def test_any_other_of_torch_s_is_a_table(name: str) -> None:
    for of in ("lr", "momentum"):
        expected = by_torch(TABLES[name], 0.5, 19, of)
        with warnings.catch_warnings(action="error"):
            schedule = from_torch(TABLES[name], lr=0.5, of=of)
            schedule(2)
        assert schedule(13) == expected[13]  # out of order: the table is made as far as it is asked for
        assert [schedule(one) for one in range(20)] == expected


def test_a_partial_is_a_factory_too() -> None:
    halved = from_torch(partial(theirs.StepLR, step_size=2, gamma=0.5), lr=0.1)
    assert repr(halved) == "from_torch(partial(StepLR, step_size=2, gamma=0.5), lr=0.1)"
    assert [halved(one) for one in range(4)] == [0.1, 0.1, 0.05, 0.05]


def test_what_a_scheduler_does_after_its_end_is_its_own_affair() -> None:
    schedule = from_torch(TABLES["one cycle"], lr=0.5)
    for _ in range(2):
        with pytest.raises(ValueError, match="total steps is 20"):
            schedule(21)
    assert schedule(19) == by_torch(TABLES["one cycle"], 0.5, 19)[19]


# -- values ------------------------------------------------------------------------------------------------------------


def multi_step(sgd: torch.optim.Optimizer) -> theirs.LRScheduler:
    return theirs.MultiStepLR(sgd, [3, 5], gamma=0.3)


MADE: dict[str, Callable[[], Curve[Any]]] = {
    "constant(0.1)": lambda: constant(0.1),
    "linear(0.1, steps=9, start=0.5, end=1.0)": lambda: linear(0.1, steps=9, start=0.5, end=1.0),
    "cosine(0.1, steps=9)": lambda: cosine(0.1, steps=9),
    "cosine(0.1, steps=9, warmup_steps=2, end=0.1)": lambda: cosine(0.1, steps=9, warmup_steps=2, end=0.1),
    "cosine_restarts(0.1, every=3, times=2)": lambda: cosine_restarts(0.1, every=3, times=2),
    "step(0.1, every=3, gamma=0.5)": lambda: step(0.1, every=3, gamma=0.5),
    "exponential(0.1, gamma=0.9)": lambda: exponential(0.1, gamma=0.9),
    "polynomial(0.1, steps=9, power=2)": lambda: polynomial(0.1, steps=9, power=2),
    "one_cycle(0.1, steps=9, pct_start=0.4)": lambda: one_cycle(0.1, steps=9, pct_start=0.4),
    "one_cycle_momentum(steps=9)": lambda: one_cycle_momentum(steps=9),
    "warmup_stable_decay(0.1, steps=9, warmup_steps=2, decay_steps=3)": lambda: warmup_stable_decay(
        0.1, steps=9, warmup_steps=2, decay_steps=3
    ),
    "sequence([constant(0.1), exponential(0.1, gamma=0.9)], at=[4])": lambda: sequence(
        [constant(0.1), exponential(0.1, gamma=0.9)], at=[4]
    ),
    "warmup(step(0.1, every=3, gamma=0.5), steps=4)": lambda: warmup(step(0.1, every=3, gamma=0.5), steps=4),
    "tuple_of(one_cycle_momentum(steps=9), 0.999)": lambda: tuple_of(one_cycle_momentum(steps=9), 0.999),
    "from_torch(multi_step, lr=0.1)": lambda: from_torch(multi_step, lr=0.1),
}


@pytest.mark.parametrize("said", MADE)
def test_a_schedule_is_a_value(said: str) -> None:
    one, other = MADE[said](), MADE[said]()
    assert repr(one) == said
    one(7)
    for copied in (other, pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert copied == one
        assert hash(copied) == hash(one)
        assert [copied(at) for at in range(12)] == [one(at) for at in range(12)]
    assert [name for name, make in MADE.items() if make() == one] == [said]
    for name in ("args", "lr"):
        with pytest.raises(AttributeError, match=f"cannot assign to field '{name}'"):
            setattr(one, name, (0.2,))


def name_of(schedule: Curve[Any]) -> str:
    return {"one_cycle_momentum": "momentum", "tuple_of": "betas"}.get(repr(schedule).partition("(")[0], "lr")


@pytest.mark.parametrize("said", one_in(3, MADE))
def test_a_schedule_passes_the_kit(said: str) -> None:
    check_schedule(MADE[said](), hyperparameter=name_of(MADE[said]()), steps=20, examples=3)


# -- what cannot be meant ----------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[Callable[..., Any], str]] = {
    "a negative rate": (lambda: cosine(-0.1, steps=9), r"cosine: lr is -0.1; expected a finite number of 0 or more\."),
    "no number": (lambda: exponential(math.nan, gamma=0.9), "lr is nan"),
    "an infinite rate": (lambda: constant(math.inf), "lr is inf"),
    "a rate as text": (lambda: constant("0.1"), "lr is '0.1'"),  # type: ignore[arg-type] # a mistake
    "True": (lambda: constant(True), "lr is True"),
    "a negative end": (lambda: cosine(0.1, steps=9, end=-1.0), "end is -1.0; .*which lr is multiplied with"),
    "no steps": (lambda: polynomial(0.1, steps=0, power=1.0), "steps is 0; expected a whole number of steps, 1 or"),
    "half a step": (lambda: one_cycle(0.1, steps=1.5), "steps is 1.5"),  # type: ignore[arg-type] # a mistake
    "a warm-up that is all": (lambda: cosine(0.1, steps=9, warmup_steps=9), "warmup_steps is 9 of 9 steps in all"),
    "more than all": (lambda: warmup_stable_decay(0.1, steps=5, warmup_steps=3, decay_steps=3), "no more together"),
    "a share above 1": (lambda: one_cycle(0.1, steps=9, pct_start=30), "pct_start is 30; expected a share"),
    "a long rise": (lambda: one_cycle(0.1, steps=9, pct_start=0.6, three_phase=True), "expected 0.5 at most"),
    "no strategy": (lambda: one_cycle(0.1, steps=9, anneal_strategy="cosine"), "'cos' or 'linear'"),  # type: ignore[arg-type] # a mistake
    "division by zero": (lambda: one_cycle(0.1, steps=9, div_factor=0), "div_factor is 0; expected .* above 0"),
    "one part": (lambda: sequence([constant(0.1)], at=[]), "a list of two or more"),
    "a number in a list": (lambda: sequence([constant(0.1), 0.1], at=[3]), "each a function of the step"),  # type: ignore[list-item] # a mistake
    "a part that is no number": (lambda: sequence([constant(0.1), lambda _: math.nan], at=[3]), "returns a finite num"),
    "a negative part": (lambda: tuple_of(lambda step: -0.1, 0.9), "returns a finite number of 0 or more"),
    "steps that go back": (lambda: sequence([constant(0.1)] * 3, at=[5, 5]), r"at is \[5, 5\] for 3 schedules"),
    "too few steps": (lambda: sequence([constant(0.1)] * 3, at=[5]), r"at is \[5\] for 3 schedules"),
    "a class": (lambda: warmup(theirs.StepLR, steps=3), "expected a function of the step"),  # type: ignore[arg-type] # a mistake
    "a warm-up of a warm-up": (lambda: warmup(cosine(0.1, steps=9, warmup_steps=2), steps=3), "begins at 0"),
    "nothing in a tuple": (lambda: tuple_of(), "parts is"),
    "no scheduler": (lambda: from_torch(lambda sgd: None, lr=0.1), "which made NoneType; expected a function"),  # type: ignore[arg-type,return-value] # a mistake
    "a loss to be told": (lambda: from_torch(theirs.ReduceLROnPlateau, lr=0.1), "Use nntrain.ReduceOnPlateau"),
    "a scheduler's class": (
        lambda: from_torch(theirs.OneCycleLR, lr=0.1),  # type: ignore[arg-type] # a mistake
        r"got OneCycleLR, which cannot .* 'max_lr'; expected .*: OneCycleLR\(optimizer, \.\.\.\)",
    ),
    "a function of more": (lambda: from_torch(lambda sgd, steps: None, lr=0.1), "'steps'; .*StepLR"),  # type: ignore[arg-type,misc] # a mistake
    "a made scheduler": (
        lambda: from_torch(theirs.StepLR(torch.optim.SGD([torch.zeros(())]), 3), lr=0.1),  # type: ignore[arg-type] # a mistake
        "expected a function of an optimizer",
    ),
    "another optimizer's": (
        lambda: from_torch(lambda _: theirs.StepLR(torch.optim.SGD([torch.zeros(())]), 3), lr=0.1),
        "a scheduler of another optimizer",
    ),
    "no hyperparameter": (lambda: from_torch(multi_step, lr=0.1, of="betas"), "of is 'betas'; an SGD has"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_meant_is_an_error_at_once(name: str) -> None:
    make, said = MISTAKES[name]
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("make", [cosine, one_cycle, one_cycle_momentum, linear, polynomial, warmup_stable_decay])
@pytest.mark.parametrize("left", [{}, {"steps": None}])
def test_a_schedule_says_that_it_needs_the_steps(make: Callable[..., Any], left: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"needs steps: .*epochs times the batches of an epoch: steps=epochs \* len"):
        make(*(() if make is one_cycle_momentum else (0.1,)), **left)


def test_another_argument_left_out_is_python_s_own_error() -> None:
    with pytest.raises(TypeError, match=r"^exponential: missing a required argument: 'gamma'"):
        exponential(0.1)  # type: ignore[call-arg] # a mistake


def test_a_rate_that_grows_beyond_all_numbers_is_told_with_its_step() -> None:
    learner = Learner(
        classifier(), DataLoaders(TRAIN, None), cross_entropy, {}, torch.optim.SGD, exponential(0.0, gamma=10.0)
    )
    state = learner.init(epochs=1)
    late = state.model_copy(update={"progress": state.progress.model_copy(update={"step": 400})})
    late = advance(learner, advance(learner, late).state).state
    with pytest.raises(ConfigError, match=r"returned (nan|inf) at step 400; expected a finite number"):
        advance(learner, late)


# -- in a training -----------------------------------------------------------------------------------------------------

RANDOM = torch.Generator().manual_seed(0)
TRAIN = [(torch.randn(8, 10, generator=RANDOM), torch.randint(0, 3, (8,), generator=RANDOM)) for _ in range(5)]


def classifier() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


def test_every_hyperparameter_of_every_group_may_have_one() -> None:
    """One cycle of rate and betas, and of another rate for the head, is the loop with torch's own scheduler."""
    model, steps = classifier(), 3 * len(TRAIN)
    adam = torch.optim.AdamW([{"params": model[:2].parameters()}, {"params": model[2:].parameters()}])  # type: ignore[index] # it is a Sequential
    cycle = theirs.OneCycleLR(adam, [0.02, 0.2], total_steps=steps + 1)
    decay = cosine(0.1, steps=steps, end=0.1)
    for at in range(steps):
        x, y = TRAIN[at % len(TRAIN)]
        for group in adam.param_groups:
            group["weight_decay"] = decay(at)
        adam.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        adam.step()
        cycle.step()
    rule = optimizer(
        torch.optim.AdamW,
        lr=one_cycle(0.02, steps=steps + 1),
        betas=tuple_of(one_cycle_momentum(steps=steps + 1), 0.999),
        weight_decay=decay,
        groups={"2.*": {"lr": one_cycle(0.2, steps=steps + 1)}},
    )
    assert "lr=one_cycle(0.02, steps=16), betas=tuple_of(one_cycle_momentum(steps=16), 0.999)" in repr(rule)
    learner = Learner.of(classifier(), DataLoaders(TRAIN, None), supervised(cross_entropy), rule)
    state = learner.fit(3, print_stats=False).state
    check_bits(tensors_of(state), tensors_of(model))


def cycle(adam: torch.optim.Optimizer) -> theirs.LRScheduler:
    return theirs.OneCycleLR(adam, 0.02, total_steps=len(TRAIN) + 1)


def rate_of_cycle_alone(adam: torch.optim.Optimizer) -> theirs.LRScheduler:
    return theirs.OneCycleLR(adam, 0.02, total_steps=len(TRAIN) + 1, cycle_momentum=False)


def trained(rule: OptimizerRule) -> dict[str, torch.Tensor]:
    return tensors_of(Learner.of(classifier(), DataLoaders(TRAIN, None), supervised(cross_entropy), rule).fit(1).state)


def test_one_that_cycles_the_momentum_too_is_warned_of_where_it_is_not_taken() -> None:
    """Taken as well, and without a warning, it is the loop with torch's own scheduler."""
    model = classifier()
    adam = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99))
    scheduler = cycle(adam)
    for x, y in TRAIN:
        adam.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        adam.step()
        scheduler.step()
    rate, momentum = from_torch(cycle, lr=0.1), from_torch(cycle, lr=0.1, of="momentum")
    with warnings.catch_warnings(action="error"):
        both = trained(optimizer(torch.optim.AdamW, lr=rate, betas=tuple_of(momentum, 0.99)))
    check_bits(both, tensors_of(model))
    write = r"optimizer\(AdamW, lr=\.\.\., betas=tuple_of\(from_torch\(cycle, lr=0\.1, of='momentum'\), 0\.99\)\)"
    with pytest.warns(ConfigWarning, match=rf"lr=from_torch\(cycle, lr=0\.1\) .* keeps its betas\. .*{write}") as told:
        alone = trained(optimizer(torch.optim.AdamW, lr=rate, betas=(0.9, 0.99)))
    assert len(told) == 1
    assert not all(torch.equal(alone[name], one) for name, one in both.items())


CYCLED: dict[str, tuple[OptimizerRule, str]] = {
    "sgd": (optimizer(torch.optim.SGD, lr=from_torch(cycle, lr=0.1)), r"momentum=from_torch\(cycle, lr=0\.1, of='mom"),
    "a partial": (
        optimizer(partial(torch.optim.SGD, momentum=0.9), lr=from_torch(cycle, lr=0.1)),
        "keeps its momentum",
    ),
    "a function": (
        optimizer(lambda params, lr: torch.optim.Adam(params, lr), lr=from_torch(cycle, lr=0.1)),
        "momentum",
    ),
    "a group": (
        optimizer(torch.optim.Adam, lr=0.1, groups={"0.*": {"lr": from_torch(cycle, lr=0.1)}}),
        "keeps its betas",
    ),
    "after a warm-up": (
        optimizer(torch.optim.SGD, lr=sequence([constant(0.1), from_torch(cycle, lr=0.1)], at=[2])),
        r"lr=sequence\(\[constant\(0\.1\), from_torch",
    ),
    "cyclic": (optimizer(torch.optim.SGD, lr=from_torch(TABLES["cyclic"], lr=0.1)), "changes the momentum too"),
}


@pytest.mark.parametrize("name", CYCLED)
def test_wherever_the_rate_stands(name: str) -> None:
    rule, said = CYCLED[name]
    with pytest.warns(ConfigWarning, match=said):
        trained(rule)


QUIET: dict[str, OptimizerRule] = {
    "the rate alone": optimizer(torch.optim.SGD, lr=from_torch(rate_of_cycle_alone, lr=0.1)),
    "a table of rates": optimizer(torch.optim.SGD, lr=from_torch(TABLES["chained"], lr=0.1), momentum=0.9),
    "both": optimizer(torch.optim.SGD, lr=from_torch(cycle, lr=0.1), momentum=from_torch(cycle, lr=0.1, of="momentum")),
    "another momentum": optimizer(torch.optim.SGD, lr=from_torch(cycle, lr=0.1), momentum=one_cycle_momentum(steps=9)),
    "a class without": optimizer(torch.optim.Adagrad, lr=from_torch(cycle, lr=0.1)),
    "one of nntrain's": optimizer(torch.optim.SGD, lr=one_cycle(0.1, steps=9)),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_moves_the_rate_alone_or_is_taken_is_not_warned_of(name: str) -> None:
    with warnings.catch_warnings(action="error"):
        trained(QUIET[name])


def test_the_warning_is_in_the_log_and_of_each_objective() -> None:
    rate = from_torch(cycle, lr=0.1)
    rules = [optimizer(torch.optim.SGD, lr=rate, params=pattern) for pattern in ("0.*", "2.*")]
    texts: list[str] = []

    def keep(transition: Transition) -> None:
        texts.extend(note.text for note in transition.notes if note.code == "schedule.momentum")

    task = supervised(cross_entropy)
    for learner in (
        Learner.of(classifier(), DataLoaders(TRAIN, None), task, chain(*rules), sinks=[keep]),
        Learner.of(
            classifier(),
            DataLoaders(TRAIN, None),
            objectives=[Objective(name, task, rule) for name, rule in zip("ab", rules, strict=True)],
            sinks=[keep],
        ),
    ):
        texts.clear()
        with pytest.warns(ConfigWarning, match="changes the momentum too") as told:
            learner.fit(1, print_stats=False)
        assert texts == [str(one.message) for one in told]
        assert len(told) == 2


@settings(max_examples=8, deadline=None)
@given(said=st.sampled_from([said for said in MADE if name_of(MADE[said]()) == "lr"]), at=st.integers(0, 14))
def test_a_training_goes_on_exactly_from_its_middle(said: str, at: int) -> None:
    def learner_of() -> Learner[Any]:
        return Learner(classifier(), DataLoaders(TRAIN, None), cross_entropy, {}, torch.optim.SGD, MADE[said]())

    learner = learner_of()
    state = learner.init(epochs=2)
    for _ in range(at):
        if state.progress.at != "finished":
            state = advance(learner, state).state
    kept = copy.deepcopy(state)
    if state.progress.at != "finished":
        assert fit_step(learner_of(), kept).state == fit_step(learner, state).state
