"""Lending tensors to be read: a write is refused before it happens.

torch has no read-only tensors. Inside the `with` block every operation passes a dispatch mode that knows, from the
operation's own schema, what it writes to; a write to lent memory, through any view of it, raises `BorrowError` and
nothing is written. What gets past it (a pointer, a NumPy view) is outside torch's sight, and so outside ours. What
another thread writes, or who kept a view of a view, is seen by the version counters afterwards: then the value is lost.
A sharded tensor is lent as it is: each rank gets its own part, in a `DTensor` of the whole's shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nntrain.errors import BorrowError
from nntrain.values.shards import is_sharded, own_part, part_like, version_of


class _ReadOnly(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    def __init__(self, lent: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        strided = {name: tensor for name, tensor in lent.items() if tensor.layout == torch.strided}
        self._names = {place: name for name, tensor in strided.items() for place in _places(tensor)}

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        given = {
            argument.name: args[position] if position < len(args) else kwargs.get(argument.name)
            for position, argument in enumerate(func._schema.arguments)
        }
        # Of the statistics of a batch norm the schemas do not say that they are written.
        trains = bool(given.get("training", given.get("train", True)))
        for argument in func._schema.arguments:
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes or (trains and argument.name in {"running_mean", "running_var"}):
                self._refuse_lent(given[argument.name], func)
        return func(*args, **kwargs)

    def _refuse_lent(self, value: object, func: object) -> None:
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
                continue
            name = next((self._names[place] for place in _places(tensor) if place in self._names), None)
            if name is not None:
                raise BorrowError(
                    f"{func} would write to {name!r}, which state.borrow() lent for reading. Nothing was written. "
                    f"Work on a copy (tensor.clone()), or take one from state.params[{name!r}]."
                )


def _places(tensor: Tensor) -> set[int]:
    """Return the storages that a write to a tensor goes to; of a sharded one the part's, too."""
    return {tensor.untyped_storage()._cdata, own_part(tensor).untyped_storage()._cdata}


class _TakenBack(Tensor):
    """What a lent tensor is after its block: whatever is done with it raises `BorrowError`."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        raise BorrowError(
            "A tensor that state.borrow() lent was used after its block. Keep a copy (tensor.clone()) of what is "
            "needed afterwards, or read it from state.params."
        )

    def __repr__(self, **_: object) -> str:  # type: ignore[override] # torch's takes tensor_contents
        return "<a tensor that state.borrow() lent, and has taken back>"


@lru_cache(maxsize=1)
def _taken_shard() -> type[Tensor]:
    """Return what a sharded tensor is after its block; made when the first is lent, as torch's class takes seconds."""
    from torch.distributed.tensor import DTensor

    refused = {name: vars(_TakenBack)[name] for name in ("__torch_function__", "__repr__")}
    return type("_TakenShard", (DTensor,), {"__slots__": (), **refused})


def _take_back(view: Tensor) -> None:
    """Make a lent tensor one that cannot be used."""
    part = own_part(view)
    if part is not view:
        view.__class__ = _taken_shard()
    part.data = part.new_empty(0)
    part.__class__ = _TakenBack


def versions_of(tensors: Iterable[Tensor]) -> list[int]:
    """Return the counts of writes to tensors, through any view of them."""
    return [version_of(tensor) for tensor in tensors]


def _view(tensor: Tensor) -> Tensor:
    return part_like(own_part(tensor).detach(), tensor) if is_sharded(tensor) else tensor.detach()


@contextmanager
def borrow(tensors: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """Lend `tensors` by name for a block. When it ends they are taken back: whoever kept one gets a `BorrowError`."""
    views = {name: _view(tensor) for name, tensor in tensors.items()}
    versions = versions_of(views.values())
    try:
        with _ReadOnly(views):
            yield views
    finally:
        after = versions_of(views.values())
        for view in views.values():
            _take_back(view)
    written = [name for name, old, new in zip(views, versions, after, strict=True) if old != new]
    if written:
        raise BorrowError(f"Lent tensors were written to: {', '.join(written)}. Work on copies.")
