"""Law 12, accumulate: n micro-batches are the big batch, with any weights and a short window; n = 1 changes no bit.

The bits are those of a loop that adds up each gradient times its weight, in units of the window's first weight, and
divides by the sum of these. Against the big batch itself rounding differs: here by 1e-9 in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import Learner, TrainState, accuracy, advance, fit_step
from nntrain.update import UpdateRule, accumulate, chain, clip_norm, ema, optimizer
from tests.laws.strategies import CLASSES, Loaders

Weighed = tuple[Tensor, Tensor, Tensor]
"""Inputs, target, and how much each sample weighs."""

counts = st.lists(st.integers(1, 5), min_size=1, max_size=7)
windows = st.integers(1, 4)


def data(sizes: Sequence[int], seed: int) -> list[Weighed]:
    source = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 4, generator=source, dtype=torch.float64),
            torch.randint(0, CLASSES, (size,), generator=source),
            torch.rand(size, generator=source, dtype=torch.float64) + 0.1,
        )
        for size in sizes
    ]


def make_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()


def loss_fn(preds: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    classes, weights = target
    return (cross_entropy(preds, classes, reduction="none") * weights).sum() / weights.sum()


def learner_of(batches: Sequence[Weighed], update: UpdateRule | None, weigh: Any) -> Learner[Any]:
    return Learner(
        make_model(),
        Loaders(batches, batches[:1]),  # type: ignore[arg-type] # of three tensors
        loss_fn,
        lambda preds, target: accuracy(preds, target[0]),
        torch.optim.SGD,
        0.1,
        unpack=lambda batch: ((batch[0],), {}, (batch[1], batch[2])),
        weigh=weigh,
        update=update,
    )


def weight_of(batch: Weighed) -> Tensor:
    return batch[2].sum()


def params_of(state: TrainState) -> list[Tensor]:
    return list(state.params.values())


def by_hand(batches: Sequence[Weighed], n: int, epochs: int) -> list[Tensor]:
    model = make_model()
    params = list(model.parameters())
    adam = torch.optim.Adam(params, lr=0.1)
    for _ in range(epochs):
        for first in range(0, len(batches), n):
            window = batches[first : first + n]
            sums, total, unit = [torch.zeros_like(param) for param in params], 0.0, float(weight_of(window[0]))
            for inputs, target, weights in window:
                adam.zero_grad()
                loss_fn(model(inputs), (target, weights)).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
                share = float(weights.sum()) / unit
                grads = [param.grad for param in params if param.grad is not None]
                sums = [one + grad * share for one, grad in zip(sums, grads, strict=True)]
                total += share
            for one, param in zip(sums, params, strict=True):
                param.grad = one / total
            nn.utils.clip_grad_norm_(params, 0.5)
            adam.step()
    return [param.detach() for param in params]


def rule(n: int) -> UpdateRule:
    return chain(accumulate(n), clip_norm(0.5), optimizer(torch.optim.Adam, lr=0.1), ema(0.9))


@given(sizes=counts, n=windows, seed=st.integers(0, 9))
def test_the_bits_of_a_loop_by_hand_and_steps_count_what_is_written(sizes: list[int], n: int, seed: int) -> None:
    batches = data(sizes, seed)
    state = learner_of(batches, rule(n), weight_of).fit(2, print_stats=False).state
    for ours, theirs in zip(params_of(state), by_hand(batches, n, 2), strict=True):
        assert torch.equal(ours, theirs)
    assert state.progress.step == 2 * -(-len(batches) // n)


@given(sizes=counts, n=windows, seed=st.integers(0, 9))
def test_micro_batches_are_the_big_batch(sizes: list[int], n: int, seed: int) -> None:
    batches = data(sizes, seed)
    big = [
        tuple(torch.cat(parts) for parts in zip(*batches[first : first + n], strict=True))
        for first in range(0, len(batches), n)
    ]
    small = learner_of(batches, chain(accumulate(n), optimizer(torch.optim.SGD, lr=0.1)), weight_of)
    whole = learner_of(big, optimizer(torch.optim.SGD, lr=0.1), weight_of)  # type: ignore[arg-type] # of three tensors
    ours, theirs = (one.fit(2, print_stats=False).state for one in (small, whole))
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    assert ours.progress.step == theirs.progress.step


@settings(max_examples=15)
@given(sizes=counts, seed=st.integers(0, 9))
def test_one_batch_a_step_changes_no_bit(sizes: list[int], seed: int) -> None:
    batches = data(sizes, seed)
    plain = learner_of(batches, optimizer(torch.optim.Adam, lr=0.1), weight_of).fit(2, print_stats=False).state
    alone = learner_of(batches, chain(accumulate(1), optimizer(torch.optim.Adam, lr=0.1)), weight_of)
    assert alone.fit(2, print_stats=False).state == plain


@settings(max_examples=15)
@given(sizes=counts, n=windows, seed=st.integers(0, 3))
def test_every_state_goes_on_to_the_same_bits_also_amid_a_window(sizes: list[int], n: int, seed: int) -> None:
    batches = data(sizes, seed)
    learner, other = (learner_of(batches, rule(n), weight_of) for _ in range(2))
    state, kept = learner.init(epochs=1), []
    while state.progress.at != "finished":
        kept.append((state, copy.deepcopy(state)))
        state = advance(learner, state).state
    for one, twin in kept:
        assert one == twin
        assert fit_step(other, twin).state == state
        assert fit_step(learner, one).state == state


@given(weights=st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=1, max_size=5), n=windows)
def test_a_batch_without_weight_adds_nothing(weights: list[float], n: int) -> None:
    """Its loss may well be no number, and neither its gradient."""
    drawn = zip(weights, data([2] * len(weights), 0), strict=True)
    batches = [(inputs, target, torch.full_like(one, weight)) for weight, (inputs, target, one) in drawn]
    update = chain(accumulate(n), optimizer(torch.optim.SGD, lr=0.1))
    by_number = learner_of(batches, update, weight_of).fit(1, print_stats=False).state
    if n == 1:
        return
    heavy = [batch for batch in batches if float(weight_of(batch))]
    assert all(param.isfinite().all() for param in params_of(by_number))
    if n >= len(batches) and heavy:
        alone = learner_of(heavy, chain(accumulate(n), optimizer(torch.optim.SGD, lr=0.1)), weight_of)
        assert params_of(alone.fit(1, print_stats=False).state)[0].equal(params_of(by_number)[0])
