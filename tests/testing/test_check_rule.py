"""The kit's check of update rules: on rules that break each law, on one of one's own that breaks none."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import DataLoaders, Learner, supervised
from nntrain.errors import ConfigError
from nntrain.testing import LawBrokenError, check_rule
from nntrain.update import At, Gradients, UpdateRule, chain, ema, optimizer
from nntrain.update.rule import Bound

SGD = optimizer(torch.optim.SGD, lr=0.1)


class Signs(Bound):
    """Takes the signs of the gradients, each times 1 at first and less and less: it breaks nothing."""

    def __init__(self, params: dict[str, Tensor]) -> None:
        super().__init__()
        self.memory: dict[str, Any] = {"share": torch.ones(()), "step": 0}
        self.told: dict[str, Tensor | float] = {}
        self.params = params

    def write(self, gradients: Gradients, at: At, /) -> bool:
        for gradient in gradients.values():
            gradient.sign_().mul_(self.memory["share"])
        self.memory["share"] = self.memory["share"] * 0.9
        self.memory["step"] += 1
        self.told = {"share": self.memory["share"]}
        return True


@dataclass(frozen=True)
class Rule:
    """A rule, made of the class of what it binds."""

    bound: Callable[[dict[str, Tensor]], Any] = Signs

    def bind(self, params: dict[str, Tensor], /) -> Any:
        return self.bound(params)


def writing(change: Callable[[Signs, Gradients, At], Any]) -> Rule:
    """Give a rule that does this after what is right; it returns what `change` returns, or True."""

    class Changed(Signs):
        def write(self, gradients: Gradients, at: At, /) -> bool:
            super().write(gradients, at)
            answer = change(self, gradients, at)
            return True if answer is None else answer

    return Rule(Changed)


@pytest.mark.parametrize("rule", [Rule(), chain(SGD, Rule()), chain(Rule(), SGD, Rule())], ids=str)
def test_a_rule_that_breaks_no_law_passes(rule: UpdateRule, device: torch.device) -> None:
    check_rule(rule, examples=4, device=device)


class Plain:
    def bind(self, params: dict[str, Tensor], /) -> Signs:
        return Signs(params)


@dataclass
class Settable:
    share: float = 0.5

    def bind(self, params: dict[str, Tensor], /) -> Signs:
        return Signs(params)


@dataclass(frozen=True)
class CountsItself:
    counted: list[int] = field(default_factory=lambda: [0])

    def bind(self, params: dict[str, Tensor], /) -> Signs:
        self.counted[0] += 1
        return Signs(params)


class WithoutMemory:
    def loss(self, loss: Tensor, /) -> Tensor:
        return loss

    def write(self, gradients: Gradients, at: At, /) -> bool:
        return True


class LossInNumbers(Signs):
    def loss(self, loss: Tensor, /) -> Any:
        return loss.item()


class CountsBeside(Signs):
    batches = 0

    def write(self, gradients: Gradients, at: At, /) -> bool:
        self.batches += 1
        return super().write(gradients, at)


class KeepsItsReference(Signs):
    """Makes a tensor with the first write, and looks at no other than that."""

    mine: Tensor | None = None

    def write(self, gradients: Gradients, at: At, /) -> bool:
        if self.mine is None:
            self.mine = self.memory["sum"] = torch.zeros(())
        self.mine += 1
        for gradient in gradients.values():
            gradient.mul_(self.mine)
        return True


class Anchored(Signs):
    """Pulls towards the weights that it was bound over: in another process these are others."""

    def __init__(self, params: dict[str, Tensor]) -> None:
        super().__init__(params)
        self.first = {name: param.detach().clone() for name, param in params.items()}

    def write(self, gradients: Gradients, at: At, /) -> bool:
        for name, gradient in gradients.items():
            gradient.add_(self.params[name].detach() - self.first[name])
        return True


class Iterates(Signs):
    """Remembers where it is in what nobody can look into."""

    def __init__(self, params: dict[str, Tensor]) -> None:
        super().__init__(params)
        self.numbers = itertools.count()

    def write(self, gradients: Gradients, at: At, /) -> bool:
        for gradient in gradients.values():
            gradient.mul_(next(self.numbers))
        return True


def keep(name: str, make: Callable[[Signs, Gradients], object]) -> Rule:
    """Give a rule that keeps a thing in its memory."""
    return writing(lambda bound, gradients, at: bound.memory.update({name: make(bound, gradients)}))


def tell(told: Any) -> Rule:
    """Give a rule that tells a thing."""
    return writing(lambda bound, gradients, at: setattr(bound, "told", told))


def grow(bound: Signs, gradients: Gradients, at: At) -> None:
    for name in gradients:
        gradients[name] = torch.zeros(7)


NUMBERS = itertools.count()
BROKEN: dict[str, tuple[Any, str, str]] = {
    "no value": (Plain(), "value", "does not equal a copy of itself.*frozen dataclass"),
    "settable": (Settable(), "value", "its share can be set"),
    "a count in the rule": (CountsItself(), "value", r"changed while it was used: self.counted"),
    "no memory": (Rule(lambda params: WithoutMemory()), "answers", "without memory"),
    "a parameter for memory": (
        Rule(lambda params: vars(made := Signs(params)).update(memory=dict(params)) or made),
        "answers",
        "tensors of its own",
    ),
    "a loss in numbers": (Rule(LossInNumbers), "answers", r"loss\(...\) of the update rule LossInNumbers returned"),
    "no answer": (writing(lambda bound, gradients, at: 1), "answers", "write returned 1; expected True, or False"),
    "another shape": (writing(grow), "answers", r"write left float32\[7\] as the gradient of 0.weight"),
    "another name": (
        writing(lambda bound, gradients, at: gradients.update(all=torch.ones(()))),
        "answers",
        "a gradient named 'all'",
    ),
    "a list that is told": (tell([1.0]), "answers", r"told is \[1.0\]; expected a dict"),
    "a vector that is told": (tell({"norms": torch.ones(2)}), "answers", r"told has norms as tensor\(\[1., 1.\]\)"),
    "NaN that is told": (tell({"ratio": float("nan")}), "answers", "told has ratio as nan, though all gradients"),
    "the clock": (
        writing(lambda bound, gradients, at: setattr(bound, "told", {"at": time.time()})),
        "determinism",
        "write reads the wall clock, by time.time",
    ),
    "Python's generator": (
        writing(lambda bound, gradients, at: random.random() < 2),
        "determinism",
        "Python's global generator",
    ),
    "the system's bytes": (
        writing(lambda bound, gradients, at: bool(os.urandom(1))),
        "determinism",
        "draws random bytes from the system",
    ),
    "the process": (
        keep("number", lambda bound, gradients: next(NUMBERS)),
        "determinism",
        "a second time, memory of write",
    ),
    "a count beside the memory": (
        Rule(CountsBeside),
        "resume",
        r"self.batches went from 1 to 2, and is in no state. What it remembers belongs in the memory",
    ),
    "a parameter in the memory": (
        keep("first", lambda bound, gradients: next(iter(bound.params.values())).detach()),
        "resume",
        "a live parameter is in its memory",
    ),
    "what no file holds": (keep("kept", lambda bound, gradients: len), "resume", "what it remembers cannot be saved"),
    "a reference": (Rule(KeepsItsReference), "branch", "after going back to the state before write"),
    "the first weights": (Rule(Anchored), "resume", "gone on from the state before write .* by the rule bound anew"),
    "an iterator": (Rule(Iterates), "branch", "after going back to the state before write"),
    "torch's generator": (
        writing(lambda bound, gradients, at: [one.add_(torch.randn(())) for one in gradients.values()] and None),
        "manners",
        "torch's global generator",
    ),
    "the default dtype": (
        writing(lambda bound, gradients, at: torch.set_default_dtype(torch.float64)),
        "manners",
        "write changed torch's default dtype",
    ),
    "a print": (writing(lambda bound, gradients, at: print(at)), "effects", "write prints"),
}


@pytest.mark.parametrize(("rule", "law", "said"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_a_law_is_told(rule: Any, law: str, said: str) -> None:
    dtype = torch.get_default_dtype()
    try:
        with pytest.raises(LawBrokenError, match=said) as caught:
            check_rule(rule, examples=4)
    finally:
        torch.set_default_dtype(dtype)
    assert caught.value.law == law


def test_the_smallest_series_is_named() -> None:
    with pytest.raises(
        LawBrokenError, match="The smallest run that shows it: gradients of seed 0 weight 1, seed 0 weight 1"
    ):
        check_rule(Rule(Iterates))


def heads(rule: UpdateRule) -> Learner[tuple[Tensor, Tensor]]:
    """Give a learner of one's own."""
    batches = [(torch.ones(2, 3), torch.zeros(2, 1))] * 2
    head = nn.Linear(3, 1)
    head.load_state_dict({name: torch.zeros_like(param) for name, param in head.state_dict().items()})
    model = nn.Sequential(OrderedDict(head=head))
    return Learner.of(model, DataLoaders(batches), supervised(nn.functional.mse_loss), rule)


def test_a_rule_of_other_parameters_has_ones_own_learner() -> None:
    head = optimizer(torch.optim.Adam, lr=0.1, groups={"head.*": {"lr": 0.01}})
    check_rule(head, learner=heads, examples=4)
    with pytest.raises(LawBrokenError, match=r"is refused: groups has 'head\.\*', which matches no parameter"):
        check_rule(head)
    with pytest.raises(LawBrokenError, match="after going back"):
        check_rule(chain(Rule(Iterates), head), learner=heads, examples=4)


class HiddenCount(torch.optim.LBFGS):
    """Evaluates the model itself, so that it is tried in trainings alone."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr, max_iter=1)
        self.numbers = itertools.count(1)

    def step(self, closure: Any) -> Any:  # type: ignore[override] # as LBFGS has it
        self.param_groups[0]["lr"] = 0.1 / next(self.numbers)
        return super().step(closure)  # type: ignore[no-untyped-call] # torch leaves it untyped


class SharedCount(HiddenCount):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.numbers = NUMBERS


@pytest.mark.parametrize(
    ("optim_class", "left_out", "law"),
    [
        (SharedCount, (), "determinism"),
        pytest.param(HiddenCount, ("_check_turns",), "resume", marks=pytest.mark.sweep),
        pytest.param(HiddenCount, ("_check_resumed",), "branch", marks=pytest.mark.sweep),
    ],
)
def test_a_training_tells_what_no_series_of_gradients_can(
    optim_class: Any, left_out: tuple[str, ...], law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for check in left_out:
        monkeypatch.setattr(f"nntrain.testing.rule.{check}", lambda *_: None)
    with pytest.raises(LawBrokenError) as caught:
        check_rule(optimizer(optim_class, lr=0.1), examples=5)
    assert caught.value.law == law


def test_what_cannot_be_meant_is_refused() -> None:
    untyped: Any = Rule
    with pytest.raises(ConfigError, match="Got the class Rule; expected an update rule"):
        check_rule(untyped)
    with pytest.raises(ConfigError, match="examples is 0"):
        check_rule(Rule(), examples=0)
    with pytest.raises(ConfigError, match="stands before the optimizer"):
        check_rule(ema(0.9))


def test_an_error_of_its_own_passes_on() -> None:
    with pytest.raises(ZeroDivisionError):
        check_rule(writing(lambda bound, gradients, at: 1 / 0))
