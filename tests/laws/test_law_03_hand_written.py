"""Law 3: the loop is the hand-written loop, bit for bit, in weights, buffers and losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import Transition, fit_step
from nntrain.values.bits import same_bits
from tests.laws.strategies import OPTIMIZERS, WITHOUT_NOISE, Setup, setups


@dataclass
class ByHand:
    """What the plain loop gave."""

    model: nn.Module
    losses: list[float] = field(default_factory=list)
    means: list[tuple[float, float]] = field(default_factory=list)


def by_hand(setup: Setup, epochs: int, device: torch.device, lr: Callable[[int], float] | None = None) -> ByHand:
    """Train with a plain loop, as one writes it."""
    model = setup.make_model().to(device)
    optimizer = setup.make_optimizer()(model.parameters(), lr=setup.lr)
    made = ByHand(model)
    step = 0
    for _ in range(epochs):
        for phase in ("train", "eval"):
            model.train(phase == "train")
            loss_sum, right, count = 0.0, 0.0, 0
            for inputs, target in setup.batches(phase):
                inputs, target = inputs.to(device), target.to(device)  # noqa: PLW2901 - as one writes it
                if phase == "train":
                    if lr is not None:
                        optimizer.param_groups[0]["lr"] = lr(step)
                    loss, preds = learn(model, optimizer, inputs, target)
                    step += 1
                else:
                    with torch.no_grad():
                        preds = model(inputs)
                        loss = cross_entropy(preds, target)
                made.losses.append(loss.item())
                loss_sum += loss.item() * len(target)
                right += (preds.argmax(1) == target).float().mean().item() * len(target)
                count += len(target)
            made.means.append((loss_sum / count, right / count))
    return made


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Take one optimizer step, through a closure as all optimizers accept it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def closure() -> float:
        optimizer.zero_grad()
        preds = model(inputs)
        loss = cross_entropy(preds, target)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        seen.append((loss.detach(), preds.detach()))
        return loss  # type: ignore[return-value] # optimizers take the loss itself; torch's type says float

    optimizer.step(closure)
    return seen[0]


@given(
    setup=setups(models=WITHOUT_NOISE, optimizers=tuple(OPTIMIZERS)), epochs=st.integers(0, 3), seed=st.integers(0, 3)
)
def test_bits_of_the_hand_written_loop(device: torch.device, setup: Setup, epochs: int, seed: int) -> None:
    losses: list[float] = []

    def sink(transition: Transition) -> None:
        if transition.output is not None:
            losses.append(transition.output.loss.item())

    learner = setup.learner(sinks=[sink], device=device)
    state = fit_step(learner, learner.init(seed), epochs).state
    hand = by_hand(setup, epochs, device)
    assert same_bits(dict(state.params), {name: tensor.detach() for name, tensor in hand.model.named_parameters()})
    assert same_bits(dict(state.buffers), dict(hand.model.named_buffers()))
    assert losses == hand.losses
    means = [(one.loss, one.metrics["metric"]) for one in state.history]
    assert len(means) == len(hand.means)
    for one, other in zip(means, hand.means, strict=True):
        assert abs(one[0] - other[0]) <= 1e-9 * max(1.0, abs(other[0]))
        assert abs(one[1] - other[1]) <= 1e-9


@given(setup=setups(models=WITHOUT_NOISE, optimizers=("sgd", "momentum", "adam")), epochs=st.integers(1, 2))
def test_a_schedule_is_the_learning_rate_set_by_hand(device: torch.device, setup: Setup, epochs: int) -> None:
    def lr(step: int) -> float:
        return 0.2 / (step + 1)

    learner = setup.learner(device=device).replace(lr=lr)
    state = fit_step(learner, learner.init(0), epochs).state
    hand = by_hand(setup, epochs, device, lr)
    assert same_bits(dict(state.params), {name: tensor.detach() for name, tensor in hand.model.named_parameters()})


@given(setup=setups(models=("mlp", "conv"), optimizers=tuple(OPTIMIZERS)), epochs=st.integers(1, 2))
def test_the_module_handed_out_predicts_as_the_hand_trained_one(setup: Setup, epochs: int) -> None:
    setup = replace(setup, lr=0.05)
    state = setup.learner().fit(epochs, print_stats=False).state
    hand = by_hand(setup, epochs, torch.device("cpu"))
    inputs, _ = setup.batches("eval")[0]
    mine, theirs = state.to_module().eval(), hand.model.eval()
    assert torch.equal(mine(inputs), theirs(inputs))
