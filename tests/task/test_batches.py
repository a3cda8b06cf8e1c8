"""Batches of any shape: moved, counted, and told apart into inputs and target."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from nntrain import DataLoaders, Learner, batch_step
from nntrain.errors import DataError
from nntrain.task.batches import sample_count, to_device
from nntrain.task.supervised import unpacked
from nntrain.values.trees import described

X, Y = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
META = torch.device("meta")


@dataclass(frozen=True)
class Example:
    image: Tensor
    label: Tensor


@dataclass(frozen=True)
class Pair:
    left: Example
    weights: Mapping[str, Tensor]


class Named(NamedTuple):
    inputs: Tensor
    target: Tensor


BATCHES: dict[str, Any] = {
    "tuple": (X, Y),
    "list": [X, Y],
    "mapping": {"image": X, "label": Y},
    "defaultdict": defaultdict(list, image=X, label=Y),
    "ordered": OrderedDict(image=X, label=Y),
    "dataclass": Example(X, Y),
    "named tuple": Named(X, Y),
    "nested": {"left": (X, [X, "name", None, 3]), "label": Pair(Example(X, Y), {"w": X})},
}


def leaves(tree: Any) -> list[Any]:
    """List what a tree holds."""
    if isinstance(tree, Mapping):
        return [leaf for one in tree.values() for leaf in leaves(one)]
    if isinstance(tree, (tuple, list)):
        return [leaf for one in tree for leaf in leaves(one)]
    if hasattr(tree, "__dataclass_fields__"):
        return [leaf for name in tree.__dataclass_fields__ for leaf in leaves(getattr(tree, name))]
    return [tree]


@pytest.mark.parametrize("name", BATCHES)
def test_every_tensor_is_moved_and_the_rest_is_kept(name: str) -> None:
    batch = BATCHES[name]
    there = to_device(batch, META)
    assert type(there) is type(batch)
    before, after = leaves(batch), leaves(there)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        if isinstance(one, Tensor):
            assert (one.device.type, other.device) == ("cpu", META)
            assert one.shape == other.shape
        else:
            assert one is other
    assert to_device(batch, torch.device("cpu")) is batch


@pytest.mark.parametrize("name", BATCHES)
def test_samples_are_counted(name: str) -> None:
    assert sample_count(BATCHES[name]) == 4


@pytest.mark.parametrize("name", ["tuple", "list", "mapping", "defaultdict", "ordered", "dataclass", "named tuple"])
def test_every_kind_trains_to_the_same_weights(name: str) -> None:
    torch.manual_seed(0)
    batch = BATCHES[name]
    learner: Learner[Any] = Learner(
        nn.Linear(3, 2),
        DataLoaders([batch], [batch]),
        nn.functional.cross_entropy,
        lambda preds, target: torch.zeros(()),
        torch.optim.SGD,
        0.1,
    )
    plain = learner.replace(dls=DataLoaders([(X, Y)], [(X, Y)]))
    state = learner.fit(2, print_stats=False).state
    assert state == plain.fit(2, print_stats=False).state
    assert batch_step(learner, state, batch).state.params.keys() == {"weight", "bias"}


def test_targets_by_name_come_from_any_place_and_several_inputs_go_by_name() -> None:
    inputs, named, target = unpacked({"y": Y, "image": X, "mask": X})
    assert (inputs, list(named), target is Y) == ((), ["image", "mask"], True)
    inputs, named, target = unpacked((X, X, Y))
    assert (len(inputs), dict(named), target is Y) == (2, {}, True)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ((X,), "needs inputs and a target"),
        ([], "needs inputs and a target"),
        (X, r"got float32\[4, 3\]"),
        ({"image": X}, "cannot be told"),
        ({"label": Y, "target": Y, "x": X}, "cannot be told"),
        ("text", "expected|got str|mapping"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(batch: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        unpacked(batch)


def test_a_batch_without_a_batch_dimension_is_refused() -> None:
    with pytest.raises(DataError, match="no tensor with a batch dimension"):
        sample_count((torch.tensor(1.0), 3))


def test_batches_are_described_by_shape_and_type() -> None:
    assert described((X, {"y": Y})) == "tuple(float32[4, 3], {y: int64[4]})"


class Outputs(OrderedDict[str, Tensor]):
    """As the outputs of transformers: items may be set, but not all at once."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("not at once")


def test_outputs_of_ones_own_class_are_kept_as_such() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, inputs: Tensor) -> Outputs:
            found = Outputs()
            found["logits"] = self.linear(inputs)
            return found

    seen: list[type] = []

    def metric(preds: Outputs, target: Tensor) -> Tensor:
        seen.append(type(preds))
        assert not preds["logits"].requires_grad
        return torch.zeros(())

    learner: Learner[Any] = Learner(
        Model(),
        DataLoaders([(X, Y)], [(X, Y)]),
        lambda preds, target: nn.functional.cross_entropy(preds["logits"], target),
        metric,
        torch.optim.SGD,
        0.1,
    )
    learner.fit(1, print_stats=False)
    assert seen == [Outputs, Outputs]
