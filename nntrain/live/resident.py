"""Out of memory: which errors say so, and what lay in memory then."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from nntrain.errors import add_note
from nntrain.live.workspace import Workspace
from nntrain.values.trees import described, tensors_of

_SAID: Final = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: not enough memory",
    "DefaultCPUAllocator: can't allocate memory",
)
"""What torch's errors say that are of no class of their own."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a device or here."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def note_resident(error: BaseException, workspace: Workspace, batch: object) -> None:
    """Say with an error what lay in memory, if that ran out."""
    if out_of_memory(error):
        add_note(
            error, f"nntrain: in memory were {', '.join(_resident(workspace, batch))}{_of_device(workspace.device)}"
        )


def _resident(workspace: Workspace, batch: object) -> list[str]:
    copies = workspace.kept_copies
    optim = workspace.optimizer.read(lambda tree: tree)
    parts: dict[str, list[Tensor]] = {
        "parameters": [*workspace.params.values()],
        "buffers": [*workspace.buffers.values()],
        "gradients": [grad for grad in workspace.gradients() if grad is not None],
        "the optimizer's memory": [*tensors_of([optim.state, optim.rules])],
        f"copies of {len(copies)} kept state{'s' * (len(copies) != 1)}": [
            tensor
            for one in copies
            for tensor in tensors_of([one.params, one.buffers, one.optim.state, one.optim.rules])
        ],
        f"this batch ({described(batch):.200})": [*tensors_of(batch)],
    }
    return [f"{name} {_size(_bytes_of(tensors))}" for name, tensors in parts.items() if tensors]


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _of_device(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    return (
        f"; torch has allocated {_size(torch.cuda.memory_allocated(device))} and reserved "
        f"{_size(torch.cuda.memory_reserved(device))} of {device}, where {_size(free)} of {_size(total)} are free"
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
