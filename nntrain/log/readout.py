"""Numbers of many batches read at once, so that a device is waited for once a group and not once a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from nntrain.transitions import BatchRan


def waits(value: Tensor | float) -> TypeGuard[Tensor]:
    """Tell whether reading a value waits for a device."""
    return isinstance(value, Tensor) and not value.is_cpu


def values_of(ran: BatchRan) -> tuple[Tensor | float, ...]:
    """Give a batch's loss and metrics."""
    return (ran.loss, *ran.metrics.values())


def read_out(ran: Sequence[BatchRan]) -> tuple[list[list[float]], bool]:
    """Give the loss and metrics of each batch as numbers, and whether a device was waited for."""
    rows = [values_of(one) for one in ran]
    away: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for row in rows:
        for value in row:
            if waits(value):
                away.setdefault((value.device, value.dtype), []).append(value)
    if not away:
        return [[float(value) for value in row] for row in rows], False
    read: dict[tuple[torch.device, torch.dtype], Iterator[float]] = {
        kind: iter(torch.stack(values).tolist()) for kind, values in away.items()
    }
    return [
        [float(next(read[value.device, value.dtype]) if waits(value) else value) for value in row] for row in rows
    ], True
