"""How two states differ: each tensor by its bits, and each value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from nntrain.bits import as_bytes, same_tensor
from nntrain.trees import Tree, unflattened

Flattened = tuple[Tree, Mapping[str, Tensor]]
"""What a `Flattener` made of a state."""

_NO_VALUES: Final = frozenset({"options"})
"""What a state holds beside its value: what the optimizer was made with."""
_ABSENT: Final = "(absent)"


class TensorDifference(BaseModel, frozen=True, extra="forbid"):
    """A tensor that is not the same in both.

    `what` says how: it is in one only, shaped or typed otherwise, or other in its bits. Then `elements` of `of` differ,
    and `largest` is the largest absolute difference of two; None where there is none, as between two bits of NaN.
    """

    name: str
    what: Literal["only in the first", "only in the second", "shape", "dtype", "bits"]
    first: str
    second: str
    elements: int = 0
    of: int = 0
    largest: float | None = None

    def __str__(self) -> str:
        if self.what == "bits":
            said = "in no number" if self.largest is None else f"by at most {self.largest:.6g}"
            return f"{self.name}: {self.elements:,} of {self.of:,} elements differ, {said}"
        if self.what in {"shape", "dtype"}:
            return f"{self.name}: {self.first} and {self.second}"
        return f"{self.name}: {self.what}, {self.first if self.first != _ABSENT else self.second}"


class ValueDifference(BaseModel, frozen=True, extra="forbid"):
    """A value that is not the same in both; `first` and `second` are JSON, or "(absent)"."""

    name: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.name}: {self.first} and {self.second}"


class Difference(BaseModel, frozen=True, extra="forbid"):
    """How two states differ: `values` first, then `tensors`. False where nothing does; its text has a line for each."""

    values: tuple[ValueDifference, ...] = ()
    tensors: tuple[TensorDifference, ...] = ()
    same_tensors: int = 0
    """How many tensors have equal bits in both."""

    def __bool__(self) -> bool:
        return bool(self.values or self.tensors)

    def __str__(self) -> str:
        lines = [str(one) for one in (*self.values, *self.tensors)]
        return "\n".join([*lines, f"{self.same_tensors} tensors have equal bits"])


def difference(first: Flattened, second: Flattened) -> Difference:
    """Compare two states that were taken apart."""
    one, other = dict(_leaves(*first)), dict(_leaves(*second))
    values: list[ValueDifference] = []
    tensors: list[TensorDifference] = []
    same = 0
    for name in [*one, *(name for name in other if name not in one)]:
        mine, theirs = one.get(name, _ABSENT), other.get(name, _ABSENT)
        if isinstance(mine, Tensor) or isinstance(theirs, Tensor):
            found = _tensors(name, mine, theirs)
            same += found is None
            tensors += [found] if found is not None else []
        elif mine != theirs:
            values.append(ValueDifference(name=name, first=mine, second=theirs))
    return Difference(values=tuple(values), tensors=tuple(tensors), same_tensors=same)


def _leaves(
    tree: Tree, tensors: Mapping[str, Tensor], path: str = "", *, clock: bool = False
) -> Iterator[tuple[str, str | Tensor]]:
    """Give each value of a tree by where it stands: tensors, and JSON of what is none.

    `clock` says that what is called seconds is what the clock said.
    """
    parts: Iterable[tuple[str, Tree]]
    tag, inner = "", tree
    if isinstance(tree, dict):
        ((tag, inner),) = tree.items()
    if tag == "tensor":
        yield path, tensors[inner]
        return
    if tag in {"map", "record", "state", "totals"}:
        parts = inner.items()
    elif tag == "pairs":
        parts = ((_shown(name), part) for name, part in inner)
    elif isinstance(inner, list):
        parts = ((str(index), part) for index, part in enumerate(inner))
    else:
        yield path, _shown(tree)
        return
    for name, part in parts:
        if (clock and name == "seconds") or (tag == "state" and name in _NO_VALUES):
            continue
        told = clock or (tag == "state" and name in {"sums", "history"})
        yield from _leaves(part, tensors, f"{path}/{name}" if path else name, clock=told)


def _shown(tree: Tree) -> str:
    if isinstance(tree, dict) and "float" in tree:
        return f"{unflattened(tree, {}, {})} (bits {tree['float']})"
    return json.dumps(tree)


def _tensors(name: str, mine: str | Tensor, theirs: str | Tensor) -> TensorDifference | None:
    """Compare two tensors, or one with what stands in its place. None where they are the same."""
    first, second = _summary(mine), _summary(theirs)
    if not (isinstance(mine, Tensor) and isinstance(theirs, Tensor)):
        what: Literal["only in the first", "only in the second"] = (
            "only in the first" if isinstance(mine, Tensor) else "only in the second"
        )
        return TensorDifference(name=name, what=what, first=first, second=second)
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        kind: Literal["shape", "dtype"] = "shape" if mine.shape != theirs.shape else "dtype"
        return TensorDifference(name=name, what=kind, first=first, second=second)
    if same_tensor(mine, theirs):
        return None
    mine, theirs = mine.detach().cpu(), theirs.detach().cpu()
    size = mine.element_size()
    other = (as_bytes(mine).reshape(-1, size) != as_bytes(theirs).reshape(-1, size)).any(dim=1)
    wide = torch.complex128 if mine.is_complex() else torch.float64
    apart = (mine.to(wide) - theirs.to(wide)).abs()
    apart = apart[~apart.isnan()]
    return TensorDifference(
        name=name,
        what="bits",
        first=first,
        second=second,
        elements=int(other.sum()),
        of=mine.numel(),
        largest=float(apart.max()) if apart.numel() else None,
    )


def _summary(value: str | Tensor) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return value
