"""Lending tensors to be read: a write is refused before it happens.

torch has no read-only tensors. Inside the `with` block every operation passes a dispatch mode that knows, from the
operation's own schema, what it writes to; a write to lent memory, through any view of it, raises `BorrowError` and
nothing is written. What gets past it (a pointer, a NumPy view) is outside torch's sight, and so outside ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nntrain.errors import BorrowError


class _ReadOnly(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    def __init__(self, lent: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self._names = {
            tensor.untyped_storage()._cdata: name for name, tensor in lent.items() if tensor.layout == torch.strided
        }

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[position] if position < len(args) else kwargs.get(argument.name)
                self._refuse_lent(value, func)
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


@contextmanager
def borrow(tensors: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """Lend `tensors` by name for a block. When it ends they are taken back: whoever kept a view has an empty tensor."""
    views = {name: tensor.detach() for name, tensor in tensors.items()}
    versions = [view._version for view in views.values()]
    try:
        with _ReadOnly(views):
            yield views
    finally:
        after = [view._version for view in views.values()]
        for view in views.values():
            view.data = view.new_empty(0)
    written = [name for name, old, new in zip(views, versions, after, strict=True) if old != new]
    if written:
        raise BorrowError(f"Lent tensors were written to: {', '.join(written)}. Work on copies.")
