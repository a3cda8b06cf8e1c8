"""The rows of a batch, of whatever containers it is made."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from nntrain.errors import DataError
from nntrain.values.bits import same_bits
from nntrain.values.record import FrozenMapping, Record
from nntrain.values.trees import rows_between


class Pair(NamedTuple):
    first: Tensor
    second: object


@dataclass
class Fields:
    inputs: Tensor
    names: list[str]
    scale: float = 0.5


class Values(Record, frozen=True):
    inputs: Tensor
    names: tuple[str, ...]
    limit: int = 3


class Encoding(UserDict[str, Any]):
    """As the batch of a tokenizer of transformers, with something beside its items."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        self.kind = "bert"


def tensor() -> Tensor:
    return torch.arange(12).reshape(6, 2)


NAMES = list("abcdef")
BATCHES: dict[str, tuple[Any, Any]] = {
    "a tensor": (tensor(), tensor()[1:4]),
    "an array": (np.arange(6), np.arange(1, 4)),
    "a pair": ((tensor(), torch.arange(6)), (tensor()[1:4], torch.arange(1, 4))),
    "a list": ([tensor(), tensor()], [tensor()[1:4], tensor()[1:4]]),
    "as many tensors as rows": ([tensor()] * 6, [tensor()[1:4]] * 6),
    "names": ((tensor(), NAMES, tuple(NAMES)), (tensor()[1:4], NAMES[1:4], tuple(NAMES[1:4]))),
    "boxes of each sample": ((tensor(), [{"n": 1}] * 6), (tensor()[1:4], [{"n": 1}] * 3)),
    "names before tensors": ({"names": NAMES, "x": tensor()}, {"names": NAMES[1:4], "x": tensor()[1:4]}),
    "no dimension": ({"x": tensor(), "t": torch.tensor(2.0)}, {"x": tensor()[1:4], "t": torch.tensor(2.0)}),
    "options": ({"x": tensor(), "o": "abcdef", "n": None}, {"x": tensor()[1:4], "o": "abcdef", "n": None}),
    "options in a list": ({"x": tensor(), "o": ["a", 2]}, {"x": tensor()[1:4], "o": ["a", 2]}),
    "a size": ((tensor(), torch.Size([6, 2])), (tensor()[1:4], torch.Size([6, 2]))),
    "an ordered dict": (OrderedDict(x=tensor()), OrderedDict(x=tensor()[1:4])),
    "a proxy": (MappingProxyType({"x": tensor()}), MappingProxyType({"x": tensor()[1:4]})),
    "a named tuple": (Pair(tensor(), {"names": NAMES}), Pair(tensor()[1:4], {"names": NAMES[1:4]})),
    "a dataclass": (Fields(tensor(), NAMES), Fields(tensor()[1:4], NAMES[1:4])),
    "a record": (
        Values(inputs=tensor(), names=tuple(NAMES)),
        Values(inputs=tensor()[1:4], names=tuple(NAMES[1:4])),
    ),
    "a frozen mapping": (FrozenMapping({"x": tensor()}), FrozenMapping({"x": tensor()[1:4]})),
    "an encoding": (Encoding({"ids": tensor()}), Encoding({"ids": tensor()[1:4]})),
}


@pytest.mark.parametrize("what", BATCHES)
def test_each_part_of_a_batch_has_its_rows_in_a_container_of_the_same_class(what: str) -> None:
    batch, expected = BATCHES[what]
    found = rows_between(batch, 1, 4)
    assert type(found) is type(batch)
    assert found is not batch
    if isinstance(found, Record):
        assert found.__pydantic_fields_set__ == batch.__pydantic_fields_set__
        found, expected = found.__dict__, expected.__dict__
    if isinstance(found, (np.ndarray, FrozenMapping, Encoding)):
        assert getattr(found, "kind", None) == getattr(batch, "kind", None)
        found, expected = (
            dict(one) if isinstance(one, (FrozenMapping, Encoding)) else torch.as_tensor(one)
            for one in (found, expected)
        )
    assert same_bits(found, expected)


def test_tensors_of_a_batch_are_views() -> None:
    batch = {"x": tensor()}
    rows_between(batch, 0, 3)["x"].zero_()
    assert not batch["x"][:3].any()
    assert batch["x"][3:].all()


@pytest.mark.parametrize(
    ("batch", "leaf"),
    [
        ((tensor(), torch.arange(5)), "[1] has 5 rows, and the first tensor 6"),
        ({"x": tensor(), "more": [torch.arange(4)]}, "['more'][0] has 4 rows, and the first tensor 6"),
        (Fields(tensor(), NAMES, torch.arange(2)), "scale has 2 rows, and the first tensor 6"),  # type: ignore[arg-type] # as a batch may be
        ((tensor(), np.arange(7)), "[1] has 7 rows, and the first tensor 6"),
    ],
    ids=["a tensor", "a nested tensor", "a field", "an array"],
)
def test_a_part_with_another_number_of_rows_is_named(batch: object, leaf: str) -> None:
    with pytest.raises(DataError) as caught:
        rows_between(batch, 0, 3)
    assert leaf in str(caught.value)


@pytest.mark.parametrize(
    "batch",
    [7, "abc", torch.tensor(1.0), {"a": 1}, [], torch.eye(3).to_sparse()],
    ids=["a number", "text", "no dimension", "options", "nothing", "a sparse tensor"],
)
def test_what_has_no_rows_is_told(batch: object) -> None:
    with pytest.raises(DataError, match="rows"):
        rows_between(batch, 0, 1)


def test_an_opaque_part_is_named() -> None:
    class Graph:
        def __init__(self) -> None:
            self.nodes = tensor()

    with pytest.raises(DataError, match=r"\['graph'\] is a Graph"):
        rows_between({"x": tensor(), "graph": Graph()}, 0, 3)
