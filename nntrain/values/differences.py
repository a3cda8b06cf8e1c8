"""How two states differ: each tensor by its bits, and each value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor

from nntrain.values.bits import as_bytes, same_tensor
from nntrain.values.flattening import Flattener, Tree, unflattened
from nntrain.values.notebook import html_table
from nntrain.values.shards import whole

Flattened = tuple[Tree, Mapping[str, Tensor]]
"""What a `Flattener` made of a state."""

_NO_VALUES: Final = frozenset({"options", "model"})
"""What a state holds beside its value: what the optimizer was made with, and of which model it is."""
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

    def _repr_html_(self) -> str:
        """Return tables of the values and the tensors that differ, which a notebook shows."""
        values = [(one.name, one.first, one.second) for one in self.values]
        tensors = [(one.name, str(one).removeprefix(f"{one.name}: ")) for one in self.tensors]
        same = f"{self.same_tensors:,} tensors have equal bits"
        return "".join(
            (
                html_table(f"{len(values):,} values differ", values, ("value", "first", "second")) if values else "",
                html_table(f"{len(tensors):,} tensors differ", tensors, ("tensor", "how")) if tensors else "",
                html_table(same if self else f"nothing differs; {same}", ()),
            )
        )


Path = tuple[tuple[str, bool], ...]
"""Where a value stands: names, and whether each is one of a record or a mapping by strings."""


class _Parts(NamedTuple):
    """That a value has parts, which are told by themselves: of what kind it is, and whether there are any."""

    kind: str
    empty: bool

    def __str__(self) -> str:
        return f"an empty {self.kind}" if self.empty else f"a {self.kind}"


_KINDS: Final = {
    "map": "mapping",
    "pairs": "mapping",
    "record": "record",
    "tuple": "tuple",
    "state": "state",
    "totals": "record",
}


Known = Mapping[str, tuple[str, str] | None]
"""Of parts that were compared as they are, by where they stand: None for equal ones, else both in words."""


def difference(first: Flattened, second: Flattened, *, known: Known | None = None) -> Difference:
    """Compare two states that were taken apart.

    `known` parts need not be told apart by what they were taken into: equal ones may differ in what the clock said, and
    others in nothing but the class of a record.
    """
    one, other = dict(_leaves(*first)), dict(_leaves(*second))
    known = known or {}
    unequal = {name: words for name, words in known.items() if words is not None}
    values: list[ValueDifference] = []
    tensors: list[TensorDifference] = []
    same = 0
    for path in [*one, *(path for path in other if path not in one)]:
        mine, theirs = one.get(path, _ABSENT), other.get(path, _ABSENT)
        name = "/".join(part for part, _ in path)
        if isinstance(mine, Tensor) or isinstance(theirs, Tensor):
            found = _tensors(name, mine, theirs)
            same += found is None
            tensors += [found] if found is not None else []
        elif _differ(mine, theirs) and known.get(_top(name), ("", "")) is not None:
            values.append(ValueDifference(name=name, first=str(mine), second=str(theirs)))
    told = {_top(name) for name in (*(one.name for one in values), *(one.name for one in tensors))}
    values += [
        ValueDifference(name=name, first=one, second=two) for name, (one, two) in unequal.items() if name not in told
    ]
    return Difference(values=tuple(values), tensors=tuple(tensors), same_tensors=same)


def _top(name: str) -> str:
    """Return the part of a state that a value belongs to: a slot, or a field."""
    return "/".join(name.split("/")[:2])


def _differ(mine: str | _Parts, theirs: str | _Parts) -> bool:
    """Return whether two values differ. Of two that have parts, the parts themselves are compared instead."""
    if isinstance(mine, _Parts) and isinstance(theirs, _Parts):
        return mine.kind != theirs.kind
    for value, against in ((mine, theirs), (theirs, mine)):
        if isinstance(value, _Parts) and against == _ABSENT:
            return value.empty
    return mine != theirs


def _leaves(
    tree: Tree, tensors: Mapping[str, Tensor], path: Path = (), *, clock: bool = False
) -> Iterator[tuple[Path, str | _Parts | Tensor]]:
    """Yield each value of a tree by where it stands: tensors, JSON of what has no parts, and the kind of what has.

    `clock` says that what is called seconds is what the clock said.
    """
    parts: Iterable[tuple[tuple[str, bool], Tree]]
    tag, inner = "list", tree
    if isinstance(tree, dict):
        ((tag, inner),) = tree.items()
    if tag == "tensor":
        yield path, tensors[inner]
        return
    if tag == "totals" and isinstance(inner["values"], dict):  # on a device they are a tensor, of the same value
        numbers: list[float] = tensors[inner["values"]["tensor"]].tolist()
        inner = {**inner, "values": Flattener().tree(numbers, "")}
    if tag in {"map", "record", "sparse", "state", "totals"}:
        parts = (((name, True), part) for name, part in inner.items())
    elif tag == "pairs":
        parts = (((_shown(name), False), part) for name, part in inner)
    elif isinstance(inner, list):
        parts = (((str(index), True), part) for index, part in enumerate(inner))
    else:
        yield path, _shown(tree)
        return
    yield path, _Parts(_KINDS.get(tag, tag), not inner)
    for place, part in parts:
        if (clock and place[0] == "seconds") or (tag == "state" and place[0] in _NO_VALUES):
            continue
        told = clock or (tag == "state" and place[0] in {"sums", "history"})
        yield from _leaves(part, tensors, (*path, place), clock=told)


def _shown(tree: Tree) -> str:
    if isinstance(tree, dict) and "float" in tree:
        return f"{unflattened(tree, {}, {})} (bits {tree['float']})"
    return json.dumps(tree)


def _tensors(name: str, mine: str | _Parts | Tensor, theirs: str | _Parts | Tensor) -> TensorDifference | None:
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
    mine, theirs = whole(mine), whole(theirs)
    if same_tensor(mine, theirs):
        return None
    mine, theirs = mine.detach().cpu(), theirs.detach().cpu()
    size = mine.element_size()
    other = (as_bytes(mine).reshape(-1, size) != as_bytes(theirs).reshape(-1, size)).any(dim=1)
    return TensorDifference(
        name=name,
        what="bits",
        first=first,
        second=second,
        elements=int(other.sum()),
        of=mine.numel(),
        largest=_largest(mine, theirs),
    )


def _largest(mine: Tensor, theirs: Tensor) -> float | None:
    """Return the largest absolute difference, None where no difference is a number."""
    wide = torch.complex128 if mine.is_complex() else torch.float64
    try:
        apart = (mine.to(wide) - theirs.to(wide)).abs()
    except RuntimeError:  # dtypes that torch has no numbers for
        return None
    apart = apart[~apart.isnan()]
    return float(apart.max()) if apart.numel() else None


def _summary(value: str | _Parts | Tensor) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return str(value)
