"""What a model gives is taken out of its graph, of whatever class it is."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from nntrain import BatchOutput, DataLoaders, Learner, TrainState, on
from nntrain.values.bits import same_bits
from nntrain.values.trees import clone_tree, detached


class Pair(NamedTuple):
    first: Tensor
    second: object


@dataclass(frozen=True)
class Scores:
    """Cannot be constructed from its fields."""

    scores: Tensor
    more: Any

    def __init__(self, scores: Tensor) -> None:
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "more", {"twice": [scores * 2]})


class Slotted:
    __slots__ = ("mean",)

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in tensors_of(part)]
    if isinstance(value, (list, tuple, deque)):
        return [tensor for part in value for tensor in tensors_of(part)]
    if isinstance(value, Slotted):
        return [value.mean]
    return tensors_of(vars(value)) if hasattr(value, "__dict__") else []


MADE: dict[str, Any] = {
    "a tensor": lambda mean: mean,
    "a tree": lambda mean: {"a": [mean, (1, mean * 2)]},
    "a named tuple": lambda mean: Pair(mean, {"b": mean}),
    "a dataclass": Scores,
    "an object with slots": Slotted,
    "a distribution": lambda mean: torch.distributions.Normal(mean, 1.0),
    "a distribution of one": lambda mean: torch.distributions.Independent(
        torch.distributions.Normal(mean, mean.exp()), 1
    ),
    "a deque": lambda mean: deque([mean], 3),
}


class Policy(nn.Module):
    """Gives what `make` makes of a parameter, expanded: a view of it."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.ones(3))
        self.make = make

    def forward(self, inputs: Tensor) -> object:
        return self.make(self.mean.expand(len(inputs), 3))


@pytest.mark.parametrize("what", MADE)
def test_law_outputs_of_any_class_are_detached_and_nobody_else_s(what: str) -> None:
    kept: list[tuple[object, list[Tensor]]] = []
    measured: list[bool] = []

    @on("after_batch")
    def keep(state: TrainState, batch: object, output: BatchOutput) -> TrainState:
        found = tensors_of(output.preds)
        kept.append((output.preds, [tensor.clone() for tensor in found]))
        return state

    def metric(preds: object, target: object) -> Tensor:
        measured.extend(tensor.requires_grad for tensor in tensors_of(preds))
        return torch.zeros(())

    def loss_fn(preds: object, target: object) -> Tensor:
        return torch.stack([tensor.sum() for tensor in tensors_of(preds)]).sum()

    data = [(torch.ones(2, 1), torch.ones(2))] * 3
    make = MADE[what]
    learner = Learner(Policy(make), DataLoaders(data, data), loss_fn, metric, torch.optim.SGD, 0.1, [keep])
    straight = learner.replace(subs=[]).fit(1, print_stats=False).state
    assert learner.fit(1, print_stats=False).state == straight
    assert len(kept) == 6
    assert not any(measured)
    for preds, copies in kept:
        assert type(preds) is type(make(torch.ones(2, 3)))
        found = tensors_of(preds)
        assert not any(tensor.requires_grad for tensor in found)
        assert all(torch.equal(tensor, one) for tensor, one in zip(found, copies, strict=True))
    state = learner.init(epochs=1)
    for tensor in tensors_of(kept[0][0]):
        tensor.zero_()
    assert learner.init(epochs=1) == state


@pytest.mark.parametrize(
    "value",
    [
        torch.Size([1, 2]),
        Pair(torch.ones(2), 1),
        defaultdict(list, a=[1]),
        OrderedDict(a=torch.ones(1)),
        deque([torch.ones(2), 1], 3),
        {"a": (1, [torch.ones(2)])},
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_copied_tree_is_of_the_same_classes(value: Any) -> None:
    twin = clone_tree(value)
    assert same_bits(twin, value)
    for mine, theirs in zip(tensors_of(twin), tensors_of(value), strict=True):
        assert mine is not theirs


def test_what_is_shared_within_an_output_is_shared_in_its_copy() -> None:
    one = torch.ones(2, requires_grad=True) * 2
    twin = detached(Pair(one, one), torch.detach)
    assert twin.first is twin.second
    assert twin.first is not one
