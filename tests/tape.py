"""A recorder for the CPU: it does to tensors what a CUDA graph does, so that the laws are tried on recordings anywhere.

Recording notes each operation below autograd, and puts back all it wrote; launching does the operations again, on the
same tensors and into the same results. As in a capture, reading a number out of a tensor is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    """Notes the operations of a block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # same
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._made: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation and note it."""
        kwargs = kwargs or {}
        if func._schema.name.split("::")[1] in READS:
            raise RuntimeError(f"{func} reads a number while the device is captured")
        for tensor in tensors_in((args, kwargs)):
            memory = tensor.untyped_storage()._cdata
            if memory not in self._made and memory not in self._before:
                self._before[memory] = (tensor.detach(), tensor.detach().clone())
        result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            if tensor.untyped_storage()._cdata not in self._before:
                self._made[tensor.untyped_storage()._cdata] = tensor
        self.operations.append((func, args, kwargs, result))
        return result

    def rewind(self) -> None:
        """Put back what was written to tensors from outside."""
        for tensor, before in self._before.values():
            tensor.copy_(before)

    def play(self) -> None:
        """Do the operations again."""
        with torch.no_grad():
            for func, args, kwargs, result in self.operations:
                again = func(*uncounted(args), **uncounted(kwargs))
                for old, new in zip(tensors_in(result), tensors_in(again), strict=True):
                    if old.untyped_storage()._cdata != new.untyped_storage()._cdata:
                        old.data.copy_(new)


def uncounted(tree: Any) -> Any:
    """Give a tree of aliases, so that torch does not count a write: a graph's are not counted."""
    if isinstance(tree, Tensor):
        return tree.data
    if isinstance(tree, dict):
        return {name: uncounted(item) for name, item in tree.items()}
    return type(tree)(uncounted(item) for item in tree) if isinstance(tree, (tuple, list)) else tree


def tensors_in(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return [tensor for item in tree for tensor in tensors_in(item)] if isinstance(tree, (tuple, list)) else []


class TapeRecorder:
    """What `nntrain.live.recorded` takes for a recorder."""

    def rehearse(self, function: Callable[[], None]) -> None:
        """Run it."""
        function()

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Note what it does, and do nothing."""
        tape = Tape()
        try:
            with tape:
                function()
        finally:
            with torch.no_grad():
                tape.rewind()
        return tape.play
