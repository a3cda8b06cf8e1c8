"""Lending tensors to be read: a write is refused before it happens.

torch has no read-only tensors. Inside the `with` block every operation passes a dispatch mode that knows, from the
operation's own schema, what it writes to; a write to lent memory, through any view of it, raises `BorrowError` and
nothing is written. What gets past it (a pointer, a NumPy view) is outside torch's sight, and so outside ours. What
another thread writes, or who kept a view of a view, is seen by the version counters afterwards: then the value is lost.
A sharded tensor is gathered when it is asked for, in memory of its own: numbers that are read of torch's `DTensor`s are
those of one rank's part, unless one takes care.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nntrain.errors import BorrowError
from nntrain.values.shards import any_sharded, is_sharded, version_of, whole


class _ReadOnly(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    def __init__(self, lent: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self._names: dict[int, str] = {}
        for name, tensor in lent.items():
            self.lend(name, tensor)

    def lend(self, name: str, tensor: Tensor) -> None:
        """Refuse writes to a tensor."""
        if tensor.layout == torch.strided:
            self._names[tensor.untyped_storage()._cdata] = name

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
            if tensor.untyped_storage()._cdata in self._names:
                name = self._names[tensor.untyped_storage()._cdata]
                raise BorrowError(
                    f"{func} would write to {name!r}, which state.borrow() lent for reading. Nothing was written. "
                    f"Work on a copy (tensor.clone()), or take one from state.params[{name!r}]."
                )


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


def versions_of(tensors: Iterable[Tensor]) -> list[int]:
    """Return the counts of writes to tensors, through any view of them."""
    return [version_of(tensor) for tensor in tensors]


class _Gathering(Mapping[str, Tensor]):
    """Lent tensors, of which sharded ones are gathered where they are asked for, once (collective)."""

    def __init__(
        self, tensors: Mapping[str, Tensor], views: dict[str, Tensor], versions: list[int], refusing: _ReadOnly
    ) -> None:
        self._tensors = tensors
        self._views = views
        self._versions = versions
        self._refusing = refusing

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._views:
            found = whole(self._tensors[name]).detach()
            self._views[name] = found
            self._versions.append(found._version)
            self._refusing.lend(name, found)
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@contextmanager
def borrow(tensors: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """Lend `tensors` by name for a block. When it ends they are taken back: whoever kept one gets a `BorrowError`."""
    views = {name: tensor.detach() for name, tensor in tensors.items() if not is_sharded(tensor)}
    versions = versions_of(views.values())
    try:
        with _ReadOnly(views) as refusing:
            yield _Gathering(tensors, views, versions, refusing) if any_sharded(tensors.values()) else views
    finally:
        after = versions_of(views.values())
        for view in views.values():
            view.data = view.new_empty(0)
            view.__class__ = _TakenBack
    written = [name for name, old, new in zip(views, versions, after, strict=True) if old != new]
    if written:
        raise BorrowError(f"Lent tensors were written to: {', '.join(written)}. Work on copies.")
