"""Reading the losses and metrics of many batches at once: one wait for the device per group, not one per batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from nntrain.sinks.transition import BatchRan


def waits(value: Tensor | float) -> TypeGuard[Tensor]:
    """Return whether reading a value waits for a device."""
    return isinstance(value, Tensor) and not value.is_cpu


def values_of(ran: BatchRan) -> tuple[Tensor | float, ...]:
    """Return a batch's loss and the values of its metrics."""
    return (ran.loss, *ran.metrics.values())


def read_out(ran: Sequence[BatchRan]) -> tuple[list[BatchRan], bool]:
    """Return the batches with plain numbers as loss and metrics, and whether that waited for a device."""
    on_device: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    all_numbers = True
    for one in ran:
        for value in values_of(one):
            if type(value) is not float:
                all_numbers = False
                if waits(value):
                    on_device.setdefault((value.device, value.dtype), []).append(value)
    if all_numbers:
        return list(ran), False
    read: dict[tuple[torch.device, torch.dtype], Iterator[float]] = {
        kind: iter(torch.stack(values).tolist()) for kind, values in on_device.items()
    }

    def number(value: Tensor | float) -> float:
        return float(next(read[value.device, value.dtype]) if waits(value) else value)

    return [
        one._replace(loss=number(one.loss), metrics={name: number(value) for name, value in one.metrics.items()})
        for one in ran
    ], bool(on_device)
