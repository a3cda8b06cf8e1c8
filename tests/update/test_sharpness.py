"""Sharpness-aware minimisation: the loop with two passes, bit for bit, and what has a place beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Engine, Key, Learner, Objective, advance, fit_step, state_before, supervised
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError
from nntrain.update import (
    At,
    UpdateRule,
    accumulate,
    chain,
    clip_norm,
    ema,
    freeze,
    gradient_noise,
    loss_scale,
    optimizer,
    sam,
    skip_nonfinite,
)

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(8, 4, generator=SOURCE), torch.randint(0, 3, (8,), generator=SOURCE)) for _ in range(6)]
SGD = optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def of(update: UpdateRule, model: Any = net, **named: Any) -> Learner[Batch, Any]:
    return Learner.of(model(), DataLoaders(DATA, None), supervised(cross_entropy), update, **named)


def by_hand(rho: float, *, adaptive: bool = False, clip: float | None = None, epochs: int = 2) -> nn.Module:
    """Train with two passes a batch; what the second one writes to buffers is taken back."""
    model = net()
    params, buffers = list(model.parameters()), list(model.buffers())
    stepper = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    for step, (x, y) in enumerate(DATA * epochs):
        torch.manual_seed(Key(seed=0).derived(1) + step)
        stepper.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call] # torch's
        weights, written = [param.detach().clone() for param in params], [buffer.clone() for buffer in buffers]
        with torch.no_grad():
            grads = [param.grad for param in params if param.grad is not None]
            sizes = [param.abs() if adaptive else torch.ones(()) for param in params]
            norm = torch.stack([(size * grad).norm() for size, grad in zip(sizes, grads, strict=True)]).norm()
            for param, grad in zip(params, grads, strict=True):
                param.add_((param.pow(2) * grad if adaptive else grad) * (rho / (norm + 1e-12)))
        stepper.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call] # torch's
        with torch.no_grad():
            for tensor, value in zip([*params, *buffers], [*weights, *written], strict=True):
                tensor.copy_(value)
        if clip is not None:
            nn.utils.clip_grad_norm_(params, clip)
        stepper.step()
    return model


@pytest.mark.parametrize(
    ("update", "hand"),
    [
        (chain(sam(0.05), SGD), {}),
        (chain(sam(0.5, adaptive=True), SGD), {"rho": 0.5, "adaptive": True}),
        (chain(sam(0.05), clip_norm(0.1), SGD, ema(0.9)), {"clip": 0.1}),
        (chain(skip_nonfinite(), sam(0.05), SGD), {}),
        (chain(sam(0.05), accumulate(1), SGD), {}),
    ],
    ids=repr,
)
def test_the_bits_of_a_loop_with_two_passes(update: UpdateRule, hand: dict[str, Any]) -> None:
    state = of(update).fit(2, print_stats=False).state
    expected = by_hand(**{"rho": 0.05, **hand})
    told = {**state.params, **state.buffers}
    assert [name for name, one in expected.state_dict().items() if not torch.equal(told[name], one)] == []


def test_before_accumulate_each_batch_is_evaluated_twice_by_itself() -> None:
    counted: list[int] = []

    class Counts(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            counted.append(len(input))
            return super().forward(input)

    state = of(chain(sam(0.05), accumulate(2), SGD), lambda: Counts(4, 3)).fit(1, print_stats=False).state
    assert (state.progress.step, len(counted)) == (3, 12)


def test_what_is_frozen_neither_goes_up_nor_gets_a_gradient() -> None:
    learner = of(chain(freeze("0.*", until=None), sam(10.0), SGD))
    state = learner.fit(1, print_stats=False).state
    assert state.params["0.weight"].equal(learner.init().params["0.weight"])
    alone = Learner.of(
        net().requires_grad_(False).append(nn.Linear(3, 3)),
        DataLoaders(DATA, None),
        supervised(cross_entropy),
        chain(sam(1.0), SGD),
    )
    assert alone.fit(1, print_stats=False).state.progress.step == 6


def test_saved_amid_an_epoch_it_goes_on_and_kept_states_stay(tmp_path: Path) -> None:
    learner = of(chain(sam(0.05), clip_norm(1.0), SGD))
    state, kept = learner.init(0, epochs=1), []
    while state.progress.at != "finished":
        kept.append((state, copy.deepcopy(state)))
        state = advance(learner, state).state
    assert all(one == before for one, before in kept)
    assert state == learner.fit(1, print_stats=False).state
    save(kept[4][0], tmp_path / "state.safetensors")
    assert fit_step(learner, load(tmp_path / "state.safetensors", learner)).state == state


def test_a_second_pass_that_fails_leaves_the_state_before() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 6:
                raise RuntimeError("second pass")
            found: Tensor = self.body(x)
            return found

    learner = of(chain(sam(0.05), SGD), Fails)
    with pytest.raises(RuntimeError, match="second pass") as raised:
        learner.fit(1, print_stats=False)
    before = state_before(raised.value)
    assert before is not None
    whole = of(chain(sam(0.05), SGD), Fails)
    state = whole.init(0, epochs=1)
    while state.progress.step < 2:
        state = advance(whole, state).state
    assert before == state
    assert fit_step(learner, before).state.params["body.4.bias"].isfinite().all()


def test_in_half_precision_without_a_scale() -> None:
    state = of(chain(sam(0.05), SGD), engine=Engine(precision="bf16")).fit(1, print_stats=False).state
    assert state.progress.step == 6


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: chain(clip_norm(1.0), sam(0.05), SGD),
            "clip_norm\\(1.0\\) stands before sam\\(0.05\\), which takes oth",
        ),
        (lambda: chain(accumulate(2), sam(0.05), SGD), "accumulate\\(2\\) stands before sam"),
        (lambda: chain(gradient_noise(0.1), sam(0.05), SGD), "stands before sam"),
        (lambda: chain(SGD, sam(0.05)), "stands after the optimizer"),
        (lambda: chain(sam(0.05), sam(0.1), SGD), "one sam at most"),
        (lambda: chain(loss_scale(), sam(0.05), SGD), "would leave scaled. Compute in Engine\\(precision='bf16'\\)"),
        (lambda: of(chain(sam(0.05), SGD), engine=Engine(precision="fp16")).init(), "would leave scaled"),
        (
            lambda: of(chain(sam(0.05), optimizer(torch.optim.LBFGS, lr=1.0))).init(),
            "evaluates the model itself, as of",
        ),
        (lambda: sam(0.0), "a finite number above 0"),
        (lambda: sam(True), "a finite number above 0"),
        (
            lambda: Learner.of(
                net(),
                DataLoaders(DATA, None),
                objectives=[Objective("one", supervised(cross_entropy), chain(sam(0.05), SGD))],
            ).init(),
            "evaluates the model itself; with several objectives",
        ),
        (lambda: chain(sam(0.05), SGD).bind(dict(net().named_parameters())).write({}, At(0)), "only a learner's step"),
    ],
)
def test_what_has_no_place_beside_it_is_told(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_with_sparse_gradients() -> None:
    def embedding() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 3))

    data = [(torch.tensor([1, 2, 1]), torch.tensor([0, 1, 2]))] * 2
    sparse, dense = embedding(), embedding()
    dense.get_submodule("0").sparse = False  # type: ignore[assignment] # a flag
    update = chain(sam(0.5), optimizer(torch.optim.SGD, lr=0.1))
    told = [
        Learner.of(one, DataLoaders(data, None), supervised(cross_entropy), update).fit(1, print_stats=False).state
        for one in (sparse, dense)
    ]
    torch.testing.assert_close(dict(told[0].params), dict(told[1].params))
