"""The range test is the hand-written one, bit for bit; it leaves state and learner as they were; its suggestions."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    DataLoaders,
    Engine,
    Learner,
    Objective,
    RangeTest,
    StepOutput,
    TrainState,
    Transition,
    advance,
    epoch_step,
    fit_step,
    lr_find,
    on,
    state_before,
    supervised,
)
from nntrain.errors import ConfigError, LossError
from nntrain.schedules import cosine, one_cycle_momentum
from nntrain.update import accumulate, chain, clip_norm, ema, optimizer
from tests.laws.strategies import Kept
from tests.laws.test_law_09_no_waste import WEIGHT, CountCopies

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)
SIZES = (8, 8, 8, 4)
TRAIN = [(torch.randn(n, 10, generator=RANDOM), torch.randint(0, 3, (n,), generator=RANDOM)) for n in SIZES]
STEPS = 30


def classifier(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def learner_of(update: Any, model: nn.Module | None = None, **options: Any) -> Learner[Batch]:
    dls = options.pop("dls", DataLoaders(TRAIN, TRAIN[:1]))
    return Learner.of(model or classifier(), dls, supervised(cross_entropy), update, **options)


def rates(start: float = 1e-4, end: float = 100.0, steps: int = STEPS) -> list[float]:
    return [float(start * (end / start) ** (step / (steps - 1))) for step in range(steps)]


def by_hand(
    sgd: torch.optim.Optimizer,
    model: nn.Module,
    factors: Sequence[float] = (1.0,),
    smoothing: float = 0.98,
    window: int = 1,
) -> tuple[list[float], list[float]]:
    """Find as anybody would: the rates, and the smoothed losses."""
    batches = itertools.cycle(TRAIN)
    value, lrs, losses = 0.0, [], []
    for count, lr in enumerate(rates(), start=1):
        for group, factor in zip(sgd.param_groups, factors, strict=True):
            group["lr"] = factor * lr
        sgd.zero_grad()
        taken = [next(batches) for _ in range(window)]
        samples = sum(len(y) for _, y in taken)
        total = 0.0
        for x, y in taken:
            loss = cross_entropy(model(x), y)
            (loss * (len(y) / samples) if window > 1 else loss).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            total += loss.item() * len(y) / samples if window > 1 else loss.item()
        sgd.step()
        value = smoothing * value + (1 - smoothing) * total
        lrs.append(lr)
        losses.append(value / (1 - smoothing**count))
        if losses[-1] > 4 * min(losses):
            break
    return lrs, losses


FIND: dict[str, Any] = {"start": 1e-4, "end": 100.0, "steps": STEPS}


# -- the hand-written loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.9, 0.98])
@pytest.mark.parametrize("name", ["momentum", "adam", "a schedule that begins at 0"])
def test_it_is_the_hand_written_loop(name: str, smoothing: float) -> None:
    model = classifier()
    adam = name != "momentum"
    make: Any = torch.optim.Adam if adam else functools.partial(torch.optim.SGD, momentum=0.9)
    lr = cosine(0.1, steps=100, warmup_steps=50) if name.startswith("a schedule") else 0.1
    learner = Learner(classifier(), DataLoaders(TRAIN, None), cross_entropy, {}, make, lr)
    found = lr_find(learner, learner.init(), smoothing=smoothing, **FIND)
    expected = by_hand(make(model.parameters(), lr=0.1), model, smoothing=smoothing)
    assert (list(found.lrs), list(found.losses)) == expected
    assert len(expected[0]) < STEPS or smoothing == 0.98
    assert found.steps == STEPS


def test_from_a_trained_state_it_goes_on_with_its_weights_and_its_optimizer_s_memory() -> None:
    model = classifier()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for x, y in TRAIN:
        sgd.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        sgd.step()
    learner = learner_of(optimizer(torch.optim.SGD, lr=0.1, momentum=0.9))
    state = learner.fit(1, print_stats=False).state.scale_lr(0.01)  # the rates are the real ones, whatever the scale
    found = lr_find(learner, state, **FIND)
    assert (list(found.lrs), list(found.losses)) == by_hand(sgd, model)


def in_groups(params: Sequence[Tensor], lr: float) -> torch.optim.Optimizer:
    """Make groups with a rate of their own, as a factory may."""
    body, head = params[:2], params[2:]
    groups: Any = [{"params": body}, {"params": head, "lr": 0.025}]
    return torch.optim.SGD(groups, lr=lr)


@pytest.mark.parametrize(
    "rule",
    [
        optimizer(torch.optim.SGD, lr=0.1, groups={"3.*": {"lr": 0.025}}),
        optimizer(torch.optim.SGD, lr=0.1, groups={"3.*": {"lr": lambda step: 0.025}}),
        optimizer(
            torch.optim.SGD,
            lr=cosine(0.1, steps=9, warmup_steps=3),
            groups={"3.*": {"lr": cosine(0.025, steps=9, warmup_steps=3)}},
        ),
        optimizer(in_groups, lr=0.1),
        chain(
            optimizer(torch.optim.SGD, lr=0.1, params="0.*"),
            optimizer(torch.optim.SGD, lr=lambda step: 0.025, params="3.*"),
        ),
    ],
    ids=["by pattern", "by schedule", "warmed up", "by factory", "by optimizer"],
)
def test_groups_keep_their_rates_in_proportion(rule: Any) -> None:
    model = classifier()
    groups: Any = [{"params": model[:3].parameters()}, {"params": model[3].parameters()}]  # type: ignore[index] # it is a Sequential
    expected = by_hand(torch.optim.SGD(groups, lr=0.1), model, (1.0, 0.25))
    learner = learner_of(rule)
    found = lr_find(learner, learner.init(), **FIND)
    assert found.lrs == tuple(expected[0])
    assert found.losses == pytest.approx(expected[1], rel=1e-6)


def test_a_step_of_several_batches_has_their_weighted_mean() -> None:
    model = classifier()
    expected = by_hand(torch.optim.SGD(model.parameters()), model, window=2)
    learner = learner_of(chain(accumulate(2), optimizer(torch.optim.SGD, lr=0.1)))
    found = lr_find(learner, learner.init(), **FIND)
    assert found.lrs == tuple(expected[0])
    assert found.losses == pytest.approx(expected[1], rel=1e-5)


def test_a_short_window_is_a_step_like_the_others() -> None:
    learner = learner_of(chain(accumulate(3), optimizer(torch.optim.SGD, lr=0.1)))
    told: list[tuple[int, float]] = []

    def note(transition: Transition) -> None:
        if transition.output is not None and transition.progress.phase == "train":
            told.append((transition.progress.step, transition.output.loss.item()))

    found = lr_find(learner, learner.init(), start=1e-9, end=1e-8, steps=6, smoothing=0.0)
    learner.replace(sinks=[note], update=chain(accumulate(3), optimizer(torch.optim.SGD, lr=1e-9))).fit(3)
    (one, two, three), (last,) = [[loss for at, loss in told if at == step] for step in (0, 1)]
    expected = (8 * one + 8 * two + 8 * three) / 24
    assert found.losses == pytest.approx([expected, last] * 3, rel=1e-5)


@pytest.mark.parametrize(
    "update",
    [
        chain(clip_norm(1.0), optimizer(torch.optim.AdamW, lr=0.1), ema(0.9)),
        optimizer(torch.optim.SGD, lr=0.1, momentum=one_cycle_momentum(steps=40), params="3.*"),
        optimizer(torch.optim.LBFGS, lr=0.1, max_iter=2),
        optimizer(torch.optim.SGD),
    ],
    ids=["chain", "other schedules", "lbfgs", "no rate said"],
)
def test_any_rule_with_one_optimizer_may_be_tried(update: Any) -> None:
    learner = learner_of(update, classifier(0.5))
    state = learner.init()
    found = lr_find(learner, state, steps=12, diverged=None)
    assert len(found.losses) == 12
    assert found == lr_find(learner, state, steps=12, diverged=None)
    assert found.losses[0] == pytest.approx(1.1, abs=0.3)


# -- a value goes in, and stays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "shuffled"])
def test_state_and_learner_go_on_as_if_nothing_had_been_at_any_transition(kind: str) -> None:
    data = torch.utils.data.TensorDataset(torch.cat([x for x, _ in TRAIN]), torch.cat([y for _, y in TRAIN]))
    loader: Any = TRAIN if kind == "list" else torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)

    def made() -> Learner[Batch]:
        rule = chain(accumulate(2), optimizer(torch.optim.Adam, lr=cosine(0.1, steps=8)), ema(0.9))
        return learner_of(rule, classifier(0.5), dls=DataLoaders(loader, TRAIN[:1]))

    straight = made().fit(2, print_stats=False).state
    learner = made()
    state = learner.init(epochs=2)
    before = torch.get_rng_state()
    found = set()
    while state.progress.at != "finished":
        kept = Kept(state)
        found.add(lr_find(learner, state, start=0.01, end=10.0, steps=7).losses)
        kept.check()
        del kept
        state = advance(learner, state).state
    assert state == straight
    lr_find(learner, state, steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(found) > 5  # of a state's own weights, each time


def test_on_any_device(device: torch.device) -> None:
    learner = learner_of(optimizer(torch.optim.Adam, lr=0.1), engine=Engine(device=device))
    state = epoch_step(learner, learner.init(epochs=2)).state
    kept = Kept(state)
    found = lr_find(learner, state, **FIND)
    kept.check()
    assert found.losses[0] == pytest.approx(state.history[0].loss, abs=0.3)
    assert lr_find(learner.replace(engine=Engine(device=device, capture=True)), state, **FIND) == found


class Epochs(torch.utils.data.Dataset[Batch]):
    """Samples that depend on the epoch which the data set was told last."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Batch:
        return torch.full((10,), index / 12 + self.epoch), torch.tensor((index + self.epoch) % 3)


def test_data_that_were_told_of_other_epochs_are_begun_again_at_their_place() -> None:
    def made() -> Learner[Batch]:
        loader = torch.utils.data.DataLoader(Epochs(), batch_size=4)
        return learner_of(optimizer(torch.optim.SGD, lr=0.1), dls=DataLoaders(loader, None))

    straight = made().fit(2, print_stats=False).state
    learner = made()
    state = learner.init(epochs=2)
    while state.progress.step < 4:
        state = advance(learner, state).state
    lr_find(learner, state, steps=9)
    assert fit_step(learner, state).state == straight


def test_a_longer_trial_makes_no_more_copies_of_the_weights() -> None:
    def copies(steps: int) -> int:
        learner = learner_of(optimizer(torch.optim.SGD, lr=0.1, momentum=0.9), nn.Linear(WEIGHT[1], WEIGHT[0]), dls=dls)
        state = learner.init()
        with CountCopies() as counter:
            lr_find(learner, state, steps=steps)
        return int(counter.count)

    dls = DataLoaders([(torch.randn(8, WEIGHT[1]), torch.randint(0, WEIGHT[0], (8,)))], None)
    assert copies(20) == copies(10)


def test_nobody_is_asked_or_told() -> None:
    asked: list[object] = []

    @on("before_batch")
    def ask(state: TrainState, batch: Batch) -> TrainState:
        asked.append(batch)
        return state

    def tell(transition: Transition) -> None:
        asked.append(transition)

    dls = DataLoaders(TRAIN, TRAIN[:1])
    for learner in (
        learner_of(optimizer(torch.optim.SGD, lr=0.1), subs=[ask], sinks=[tell]),
        Learner(classifier(), dls, cross_entropy, {}, torch.optim.SGD, 0.1, [ask], sinks=[tell]),
    ):
        lr_find(learner, learner.init(), steps=5)
        assert asked == []


def test_it_may_be_asked_for_within_a_training_of_the_same_learner() -> None:
    found: list[RangeTest] = []

    @on("before_epoch")
    def look(state: TrainState) -> TrainState:
        if state.progress.phase == "train":
            found.append(lr_find(learner, state, steps=6))
        return state

    plain = learner_of(optimizer(torch.optim.SGD, lr=0.1))
    learner = plain.replace(subs=[look])
    assert fit_step(learner, learner.init(), 2).state == fit_step(plain, plain.init(), 2).state
    assert len(found) == 2


def test_it_takes_the_batches_of_the_epoch_at_which_the_state_stands() -> None:
    seen: list[tuple[int, int]] = []

    class Told:
        def batches(self, key: object, epoch: int, start: int) -> Any:
            for index in range(start, len(TRAIN)):
                seen.append((epoch, index))
                yield TRAIN[index]

    learner = learner_of(optimizer(torch.optim.SGD, lr=0.1), dls=DataLoaders(Told(), TRAIN[:1]))
    state = advance(learner, epoch_step(learner, learner.init(epochs=3)).state).state
    for epoch in (1, 1):
        seen.clear()
        lr_find(learner, state, steps=6)
        assert seen[:6] == [*((epoch, index) for index in range(4)), (epoch + 1, 0), (epoch + 1, 1)]
        if state.progress.phase == "eval":
            state = epoch_step(learner, state).state
    assert state.progress.epoch == 1


# -- when it ends ------------------------------------------------------------------------------------------------------


def losing(losses: list[float]) -> Learner[Any]:
    """Make a learner with given losses, one for each step."""

    def task(model: nn.Module, batch: float) -> StepOutput[None]:
        return StepOutput(loss=next(model.parameters()).sum() * 0 + batch, weight=1)

    sgd = optimizer(torch.optim.SGD, lr=0.1)
    return Learner.of(nn.Linear(1, 1), DataLoaders(losses, None), task, sgd)


def losses_of(losses: list[float], **options: Any) -> list[float]:
    learner = losing(losses)
    told = lr_find(learner, learner.init(), smoothing=0.0, steps=len(losses), **options).losses
    return [round(loss, 4) for loss in told]


def test_it_ends_where_the_loss_diverges() -> None:
    assert losses_of([2.0, 1.0, 4.0, 4.25, 1.0]) == [2.0, 1.0, 4.0, 4.25]
    assert losses_of([2.0, 1.0, 4.0, 4.25, 1.0], diverged=2.0) == [2.0, 1.0, 4.0]
    assert losses_of([2.0, 1.0, 4.0, 4.25, 1.0], diverged=None) == [2.0, 1.0, 4.0, 4.25, 1.0]
    # a loss below 0, as a likelihood's, does not diverge while it falls
    assert losses_of([1.0, -1.0, -2.0, -3.0, 3.5, 3.5]) == [1.0, -1.0, -2.0, -3.0, 3.5, 3.5]
    assert losses_of([1.0, -1.0, -2.0, -3.0, 6.5, 3.5]) == [1.0, -1.0, -2.0, -3.0, 6.5]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("diverged", [4.0, None])
def test_a_loss_that_is_not_finite_ends_it_and_is_left_out(bad: float, diverged: float | None) -> None:
    assert losses_of([2.0, 1.0, bad, 1.0], diverged=diverged) == [2.0, 1.0]
    learner = losing([bad, 1.0])
    with pytest.raises(LossError, match="the loss at the first rate, 1e-07, is not finite"):
        lr_find(learner, learner.init())


def test_what_the_model_raises_leads_back_to_the_state() -> None:
    def task(model: nn.Module, batch: float) -> StepOutput[None]:
        raise ZeroDivisionError

    learner = losing([1.0]).replace(task=task)
    state = learner.init()
    with pytest.raises(ZeroDivisionError) as caught:
        lr_find(learner, state)
    assert state_before(caught.value) is state


# -- suggestions -------------------------------------------------------------------------------------------------------


def found_of(losses: Sequence[float], steps: int = 0) -> RangeTest:
    lrs = tuple(1e-4 * 2.0**index for index in range(len(losses)))
    return RangeTest(lrs=lrs, losses=tuple(losses), steps=steps or len(losses))


def falling(losses: Sequence[float]) -> tuple[int, ...]:
    """Return a longest falling subsequence, the one that ends first, of all that there are."""
    indices = range(len(losses))
    subsets: list[tuple[int, ...]] = [one for size in indices for one in itertools.combinations(indices, size + 1)]
    falls = [one for one in subsets if all(losses[a] > losses[b] for a, b in pairwise(one))]
    return min(falls, key=lambda one: (-len(one), one[-1]))


@given(losses=st.lists(st.integers(0, 9), min_size=3, max_size=7))
def test_suggestions_are_the_steepest_fall_and_the_longest(losses: list[int]) -> None:
    found = found_of([*map(float, losses)])
    if not any(after < before for before, after in pairwise(losses)):
        for suggestion in ("steepest", "valley"):
            with pytest.raises(
                ConfigError, match=rf"The loss never falls between the rates 0.0001 and .* \({len(losses)}"
            ):
                getattr(found, suggestion)
        assert "the loss never falls" in repr(found)
        return
    drops = [after - before for before, after in pairwise(losses)]
    assert drops[found.lrs.index(found.steepest)] == min(drops)  # the rates are as far from each other
    longest = falling(losses)
    size = len(longest)
    at = longest[-1] - size + size // 3 + int(size / 6)
    assert found.valley == found.lrs[max(at, 0)]


def test_the_beginning_and_the_end_are_left_out() -> None:
    losses = [9.0, 1.0, *(8.0 - 0.1 * index for index in range(13)), 9.0, 5.0, 9.0, 1.0, 0.0]
    found = found_of(losses)
    assert found.valley == found.lrs[2 - 1 + 4 + 2]
    assert found.steepest in found.lrs[2:14]
    early = found_of([9.0, 8.0, 1.0, 3.0, 9.0], steps=100)  # too few are left
    assert early.steepest == early.lrs[1]


def test_a_suggestion_trains() -> None:
    learner = learner_of(optimizer(torch.optim.Adam, lr=1.0))
    found = lr_find(learner, learner.init())
    assert 1e-4 < found.valley < 1.0
    assert 1e-4 < found.steepest < 1.0
    assert "RangeTest(" in repr(found)
    trained = learner.replace(update=optimizer(torch.optim.Adam, lr=found.valley))
    history = trained.fit(20, print_stats=False).state.history
    assert history[-1].loss < 0.5 * history[0].loss


# -- what cannot be meant ----------------------------------------------------------------------------------------------


def two() -> Learner[Any]:
    parts = [
        Objective(name, supervised(cross_entropy), optimizer(torch.optim.SGD, lr=0.1, params=params))
        for name, params in (("body", "0.*"), ("head", "3.*"))
    ]
    return Learner.of(classifier(), DataLoaders(TRAIN, None), objectives=parts)


def only_groups() -> Learner[Any]:
    return learner_of(optimizer(torch.optim.SGD, groups={"0.*": {"lr": 0.1}, "3.*": {"lr": 0.2}}))


def side_by_side() -> Learner[Any]:
    body, head = (optimizer(torch.optim.SGD, params="0.*", lr=0.1), optimizer(torch.optim.SGD, params="3.*"))
    return learner_of(chain(body, head))


def without_rate(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1)


MISTAKES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "two objectives": (lambda _, __: lr_find(two(), two().init()), "has the objectives body, head, each with an opt"),
    "no learner": (lambda _, state: lr_find(classifier(), state), "Got Sequential where a Learner is expected"),  # type: ignore[arg-type] # a mistake
    "no state": (lambda learner, _: lr_find(learner, learner), "Got Learner; a step takes a TrainState"),
    "an outcome": (lambda learner, _: lr_find(learner, learner.fit(1, print_stats=False)), "a step takes its state"),
    "no rise": (lambda *of: lr_find(*of, start=0.1, end=0.1), "start is 0.1 and end 0.1; expected rates above 0"),
    "from 0": (lambda *of: lr_find(*of, start=0), "start is 0 and end"),
    "to nothing": (lambda *of: lr_find(*of, end=math.nan), "end nan"),
    "one step": (lambda *of: lr_find(*of, steps=1), "steps is 1; expected a whole number of 2 or more"),
    "a share of steps": (lambda *of: lr_find(*of, steps=0.5), "steps is 0.5"),  # type: ignore[arg-type] # a mistake
    "all smoothed away": (lambda *of: lr_find(*of, smoothing=1.0), "smoothing is 1.0; expected a number from 0"),
    "diverged at once": (lambda *of: lr_find(*of, diverged=1.0), "diverged is 1.0; expected a number above 1"),
    "no rate to be in proportion to": (
        lambda _, __: lr_find(only_groups(), only_groups().init()),
        r"groups\['0.\*'\] has an lr of its own, and the first optimizer none above 0, so that they are in no pro",
    ),
    "an optimizer with no rate to be kept in proportion": (
        lambda _, state: lr_find(side_by_side(), state),
        r"optimizer\(SGD, params=\['3.\*'\]\) has no lr of its own, and the first optimizer one",
    ),
    "an optimizer that takes no rate": (
        lambda _, state: lr_find(learner_of(optimizer(without_rate)), state),
        "optim_class without_rate cannot be called with .*lr",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_meant_is_told(name: str) -> None:
    find, said = MISTAKES[name]
    learner = learner_of(optimizer(torch.optim.SGD, lr=0.1))
    state = learner.init()
    kept = copy.deepcopy(state)
    with pytest.raises(ConfigError, match=said):
        find(learner, state)
    assert state == kept
