"""Numbers of many batches read at once, so that a device is waited for once a group and not once a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from nntrain.sinks.transition import BatchRan


def waits(value: Tensor | float) -> TypeGuard[Tensor]:
    """Tell whether reading a value waits for a device."""
    return isinstance(value, Tensor) and not value.is_cpu


def values_of(ran: BatchRan) -> tuple[Tensor | float, ...]:
    """Give a batch's loss and metrics."""
    return (ran.loss, *ran.metrics.values())


def read_out(ran: Sequence[BatchRan]) -> tuple[list[BatchRan], bool]:
    """Give the batches with numbers for loss and metrics, and whether a device was waited for."""
    away: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    numbers = True
    for one in ran:
        for value in values_of(one):
            if type(value) is not float:
                numbers = False
                if waits(value):
                    away.setdefault((value.device, value.dtype), []).append(value)
    if numbers:
        return list(ran), False
    read: dict[tuple[torch.device, torch.dtype], Iterator[float]] = {
        kind: iter(torch.stack(values).tolist()) for kind, values in away.items()
    }

    def number(value: Tensor | float) -> float:
        return float(next(read[value.device, value.dtype]) if waits(value) else value)

    return [
        one._replace(loss=number(one.loss), metrics={name: number(value) for name, value in one.metrics.items()})
        for one in ran
    ], bool(away)
