"""The engine that runs Python at each batch."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from nntrain.live.compiled import CompileOptions
from nntrain.live.engine import Pass, Passed
from nntrain.live.flight import Flight
from nntrain.live.inputs import Inputs
from nntrain.values.output import BatchOutput, StepOutput
from nntrain.values.randomness import seed_all
from nntrain.values.sums import WeightedSums
from nntrain.values.trees import detached

Batch = TypeVar("Batch")

_REUSING = ("reduce-overhead", "max-autotune")
"""The modes of `torch.compile` that put each call's results into the same memory, on CUDA."""


class Eager(Generic[Batch]):
    """Runs a pass operation by operation, or as `torch.compile` has compiled it."""

    def __init__(self, plain: Pass[Batch], compile_options: CompileOptions | None) -> None:
        self._pass = plain
        self._inputs = Inputs()
        self.names: tuple[str, ...] = plain.names
        device = plain.workspace.device
        reuses = compile_options is not None and compile_options.get("mode") in _REUSING and device.type == "cuda"
        self._own = _clone if reuses else plain.workspace.own
        self._sums_device = None if device.type == "cpu" else device

    def run(self, batch: Batch, weighted: WeightedSums, flight: Flight, *, bits: int, seen: bool) -> Passed:  # noqa: ARG002 - the output always has memory of its own
        """Pass a batch through."""
        plain, train = self._pass, flight.step is not None
        workspace, own = plain.workspace, self._own
        seed_all(workspace.generators, bits)
        watched = self._inputs.acts[train]
        parts, weight = plain.prepare(self._inputs.given(batch, train=train) if watched else batch, train=train)
        first: list[tuple[Tensor, Any]] = []

        def forward() -> Tensor:
            preds, loss = plain.evaluate(parts, train=train)
            if not first:
                first.append((own(loss), own(preds) if isinstance(preds, Tensor) else detached(preds, own)))
            return loss

        try:
            workspace.compute(forward)
        finally:
            if watched:
                self._inputs.taken_back()
        ((loss, preds),) = first
        memory = plain.remember(weighted, StepOutput(loss, preds, parts[2], weight)) if plain.remembers else None
        measured = plain.measure(preds, parts[2])
        means: list[Tensor | float] = [loss, *measured.values()]
        if self._sums_device is None:
            means = [float(mean) for mean in means]
        after = weighted.add(means, weight, self._sums_device, self.names)
        if memory is not None:
            after = after.remembering(memory)
        samples = weight if isinstance(weight, int) else 0
        return Passed(BatchOutput(loss, preds, MappingProxyType(measured)), samples, after, means, flight.lr_scale)


def _clone(tensor: Tensor) -> Tensor:
    return torch.clone(tensor.detach())
