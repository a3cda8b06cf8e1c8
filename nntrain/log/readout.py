"""Numbers of many batches read at once, so that a device is waited for once a group and not once a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nntrain.transitions import BatchRan


def read_out(ran: Sequence[BatchRan]) -> tuple[list[list[float]], bool]:
    """Give the loss and metrics of each batch as numbers, and whether a device was waited for."""
    rows = [(one.loss, *one.metrics.values()) for one in ran]
    away: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for row in rows:
        for value in row:
            if isinstance(value, Tensor) and value.device.type != "cpu":
                away.setdefault((value.device, value.dtype), []).append(value)
    if not away:
        return [[value.item() if isinstance(value, Tensor) else value for value in row] for row in rows], False
    read = {kind: iter(torch.stack(values).tolist()) for kind, values in away.items()}

    def number(value: Tensor | float) -> float:
        if isinstance(value, Tensor) and value.device.type != "cpu":
            return float(next(read[value.device, value.dtype]))
        return float(value)

    return [[number(value) for value in row] for row in rows], True
