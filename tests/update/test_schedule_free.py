"""Schedule-free optimizers: the loop by hand's bits, the paper's formulas, and eval with the mean."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Engine, Learner, Objective, advance, evaluate, fit_step, lr_find, predict, supervised
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError
from nntrain.update import UpdateRule, accumulate, chain, clip_norm, ema, freeze, optimizer, sam, schedule_free
from tests.jobs import check_bits

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(8, 4, generator=SOURCE), torch.randint(0, 3, (8,), generator=SOURCE)) for _ in range(8)]
TRAIN, VALID = DATA[:6], DATA[6:]
SGD = optimizer(torch.optim.SGD, lr=0.1)
Rate = Callable[[int], float]


def warm(step: int) -> float:
    """Rise to 0.02 within 4 steps."""
    return 0.02 * min(1.0, step / 4)


def constant(step: int) -> float:
    return 0.1


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def of(update: UpdateRule, model: Any = net, **named: Any) -> Learner[Batch, Any]:
    return Learner.of(model(), DataLoaders(TRAIN, VALID), supervised(cross_entropy), update, **named)


def shares(rate: Rate, steps: int) -> list[float]:
    """Return by how much each step changes the mean."""
    highest, total, found = 0.0, 0.0, []
    for step in range(steps):
        highest = max(highest, rate(step))
        total += highest**2
        found.append(highest**2 / total if total else 0.0)
    return found


def by_hand(make: Callable[[Any], torch.optim.Optimizer], rate: Rate) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the trained weights and their mean, of a loop around one of torch's optimizers."""
    model = net()
    stepper, params = make(model.parameters()), list(model.parameters())
    last = [param.detach().clone() for param in params]
    for step, share in enumerate(shares(rate, 2 * len(TRAIN))):
        x, y = TRAIN[step % len(TRAIN)]
        stepper.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call] # torch's
        before = [param.detach().clone() for param in params]
        stepper.param_groups[0]["lr"] = rate(step)
        stepper.step()
        with torch.no_grad():
            for param, begun, end in zip(params, before, last, strict=True):
                moved = param - begun
                param.copy_(begun.lerp(end, share).add(moved, alpha=1 - 0.9 * (1 - share)))
                end.add_(moved)
    means = [param.detach().lerp(end, 1 - 1 / 0.9) for param, end in zip(params, last, strict=True)]
    return dict(model.named_parameters()), dict(zip(dict(model.named_parameters()), means, strict=True))


def by_the_paper(rate: Rate) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights and the mean of SGD, of z, x and y as the paper has them."""
    model = net()
    named = dict(model.named_parameters())
    z, x = ({name: param.detach().clone() for name, param in named.items()} for _ in range(2))
    for step, share in enumerate(shares(rate, 2 * len(TRAIN))):
        inputs, target = TRAIN[step % len(TRAIN)]
        found = torch.autograd.grad(cross_entropy(model(inputs), target), list(named.values()))
        with torch.no_grad():
            for (name, param), gradient in zip(named.items(), found, strict=True):
                z[name] = z[name] - rate(step) * gradient
                x[name] = (1 - share) * x[name] + share * z[name]
                param.copy_(0.1 * z[name] + 0.9 * x[name])
    return {**named}, x


ADAMW: dict[str, Any] = {"betas": (0.0, 0.99), "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("rule", "make", "rate"),
    [
        (SGD, lambda params: torch.optim.SGD(params, lr=0.1), constant),
        (
            optimizer(torch.optim.AdamW, lr=warm, **ADAMW),
            lambda params: torch.optim.AdamW(params, lr=1.0, **ADAMW),
            warm,
        ),
    ],
    ids=["sgd", "adamw"],
)
def test_the_bits_of_a_loop_by_hand(rule: UpdateRule, make: Any, rate: Rate) -> None:
    state = of(schedule_free(rule)).fit(2, print_stats=False).state
    weights, means = by_hand(make, rate)
    check_bits(dict(state.params), weights)
    check_bits(dict(state.with_averages("schedule_free").params), means)
    check_bits(dict(state.to_module(weights="schedule_free").named_parameters()), means)


def test_the_papers_formulas() -> None:
    state = (
        of(schedule_free(optimizer(torch.optim.SGD, lr=lambda step: 5 * warm(step)))).fit(2, print_stats=False).state
    )
    weights, means = by_the_paper(lambda step: 5 * warm(step))
    torch.testing.assert_close(dict(state.params), {name: one.detach() for name, one in weights.items()})
    torch.testing.assert_close(dict(state.with_averages("schedule_free").params), means)


def test_eval_has_the_mean_and_training_goes_on_from_the_weights() -> None:
    learner = of(schedule_free(SGD))
    state = learner.fit(2, print_stats=False).state
    model = state.to_module(weights="schedule_free")
    preds = [model(x) for x, _ in VALID]
    losses = [float(cross_entropy(one, y).detach()) for one, (_, y) in zip(preds, VALID, strict=True)]
    assert state.history[-1].loss == pytest.approx(sum(losses) / 2)
    assert evaluate(learner, state) == state.history[-1] == evaluate(learner, state, weights="schedule_free")
    assert evaluate(learner, state).loss != evaluate(of(SGD), state).loss
    assert all(map(torch.equal, predict(learner, state, VALID), preds))
    assert len(lr_find(learner, state, steps=5).lrs) >= 2


def test_before_any_step_the_mean_is_the_weights_themselves() -> None:
    learner = of(schedule_free(SGD))
    state = learner.init()
    assert evaluate(learner, state) == evaluate(of(SGD), of(SGD).init())


def test_resumed_at_any_transition_it_ends_as_if_there_had_been_no_stop(tmp_path: Path) -> None:
    update = chain(clip_norm(1.0), accumulate(2), schedule_free(optimizer(torch.optim.AdamW, lr=warm, **ADAMW)))
    learner = of(update)
    state, kept = learner.init(0, epochs=2), []
    while state.progress.at != "finished":
        kept.append((state, copy.deepcopy(state)))
        state = advance(learner, state).state
    assert all(one == before for one, before in kept)
    assert state == learner.fit(2, print_stats=False).state
    other = of(update)
    for one, _ in kept[3::5]:
        save(one, tmp_path / "state.safetensors")
        assert fit_step(other, load(tmp_path / "state.safetensors", other)).state == state


def test_weights_that_are_brought_in_are_trained_from() -> None:
    learner = of(schedule_free(SGD))
    state = learner.fit(1, print_stats=False).state
    moved = state.with_params({name: param + 5 for name, param in state.params.items()})
    after = fit_step(learner, moved, epochs=1).state
    assert all(bool((after.params[name] - moved.params[name]).abs().max() < 3) for name in moved.params)


def test_what_has_no_gradient_stays_as_it_is() -> None:
    learner = of(chain(freeze("0.*", until=None), schedule_free(SGD)))
    state = learner.fit(2, print_stats=False).state
    assert state.params["0.weight"].equal(learner.init().params["0.weight"])
    half = of(schedule_free(optimizer(torch.optim.SGD, lr=0.1, params="2.*")))
    assert half.fit(1, print_stats=False).state.to_module(weights="schedule_free").training is False


@pytest.mark.parametrize(
    ("update", "named"),
    [
        (chain(sam(0.05), schedule_free(SGD)), {}),
        (
            schedule_free(
                chain(
                    optimizer(torch.optim.SGD, lr=0.1, params="0.*"), optimizer(torch.optim.SGD, lr=0.1, params="2.*")
                )
            ),
            {},
        ),
        (schedule_free(SGD), {"engine": Engine(precision="fp16")}),
        (schedule_free(chain(SGD, ema(0.9))), {}),
    ],
    ids=["sam", "two optimizers", "fp16", "ema"],
)
def test_beside_others(update: UpdateRule, named: dict[str, Any]) -> None:
    first = of(update, **named).fit(1, print_stats=False).state
    assert first == of(update, **named).fit(1, print_stats=False).state
    assert first.history[-1].loss > 0


def test_in_an_objective() -> None:
    objectives = [Objective("one", supervised(cross_entropy), schedule_free(SGD))]
    learner = Learner.of(net(), DataLoaders(TRAIN, VALID), objectives=objectives)
    state = learner.fit(1, print_stats=False).state
    check_bits(dict(state.params), dict(of(schedule_free(SGD)).fit(1, print_stats=False).state.params))
    assert state.history[-1].loss == of(schedule_free(SGD)).fit(1, print_stats=False).state.history[-1].loss


class Exchanging(torch.optim.SGD):
    """Has the interface of the optimizers of `schedulefree`."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: of(optimizer(Exchanging, lr=0.1)).init(),
            "Exchanging exchanges the weights in a train\\(\\) and eval\\(\\)",
        ),
        (lambda: schedule_free(SGD, momentum=0.0), "momentum is 0.0; expected a number above 0"),
        (lambda: schedule_free(SGD, momentum=True), "momentum is True"),
        (lambda: schedule_free(clip_norm(1.0)), "A chain has an optimizer"),
        (lambda: schedule_free(chain(SGD, ema(0.9, in_eval=True))), "Eval has the average of one rule"),
        (lambda: of(schedule_free(optimizer(torch.optim.LBFGS, lr=1.0))).init(), "shows no gradients: schedule_free"),
    ],
)
def test_what_cannot_be_meant(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
