"""The engine that runs Python at each batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from nntrain.data.dividing import Part
from nntrain.errors import LossError
from nntrain.live.compiled import CompileOptions, reuses_memory
from nntrain.live.engine import Pass, Passed
from nntrain.live.flight import Flight
from nntrain.live.halving import Halving
from nntrain.live.inputs import Inputs
from nntrain.live.objective import joined
from nntrain.task.carrying import handed_on
from nntrain.task.task import source_of, weight_of
from nntrain.values.memory import Memory
from nntrain.values.output import BatchOutput, StepOutput, without_graph
from nntrain.values.randomness import seed_all
from nntrain.values.sums import WeightedSums

Batch = TypeVar("Batch")


class Eager(Generic[Batch]):
    """Runs a pass operation by operation, or as `torch.compile` has compiled it."""

    def __init__(
        self,
        passes: Mapping[str, Pass[Batch]],
        compile_options: CompileOptions | None,
        halving: Callable[[Pass[Batch], Callable[[Tensor], Tensor]], Halving[Batch]] | None = None,
    ) -> None:
        self._passes = passes
        """By the names of the objectives. The pass of a learner that has one task and no objectives has none."""
        self._several = "" not in passes
        self._pass = plain = next(iter(passes.values()))
        self._inputs = Inputs()
        self.names: tuple[str, ...] = plain.names
        self.supervised: bool = plain.supervised
        self.carrying: tuple[str, ...] = tuple(one.name for one in passes.values() if one.carries)
        device = plain.workspace.device
        reuses = compile_options is not None and reuses_memory(compile_options, device)
        self._own = _clone if reuses else plain.workspace.own
        self._halving = None if halving is None else halving(plain, self._own)
        """Passes a batch through in parts, where it does not fit in memory."""
        self._sums_device = None if device.type == "cpu" else device
        self._no_loss = torch.tensor(math.nan, device=device)

    def run(self, batch: Batch, weighted: WeightedSums, flight: Flight, *, bits: int, seen: bool) -> Passed:  # noqa: ARG002 - the output always has memory of its own
        """Pass a batch through."""
        plain, train = self._pass, flight.step is not None
        seed_all(plain.workspace.generators, bits)
        plain.begin(train=train)
        watched = self._inputs.acts[train]
        given = self._inputs.given(batch, train=train) if watched else batch
        carried = dict(weighted.carried) if self.carrying else None
        try:
            if self._several:
                found = self._outputs(given, carried, flight.part, train=train)
            elif self._halving is None:
                found = self._output(plain, given, carried, flight.part, train=train)
            else:
                whole = partial(self._output, plain, given, None, None, train=train)
                found = self._halving.output(whole, given, train=train, bits=bits)
        finally:
            if watched:
                self._inputs.taken_back()
        part = flight.part
        if part is None:
            weight = flight.weight = weight_of(found, batch, plain.task, checked=self.supervised)
            samples = weight if isinstance(weight, int) else 0
        else:
            share = plain.weigh(found, batch, part, train=train) if self._several else plain.weighed
            weight, flight.weight, _, samples = share
        output = replace(found, weight=weight) if self._several else without_graph(found, self._own, weight)
        counts = part is None or part.rows > 0
        memory = plain.remember(weighted, output, counts=counts) if plain.remembers else None
        measured = plain.measure(output, batch, found.weight)
        loss = self._no_loss if output.loss is None else output.loss
        means: list[Tensor | float] = [loss, *measured.values()]
        if self._sums_device is None:
            means = [float(mean) for mean in means]
        names = self.names if not output.parts else tuple(measured)
        if weighted.has_loss is (output.loss is None) and weighted.tolist():
            raise LossError(
                f"{source_of(plain.task)} returned {'no loss' if output.loss is None else 'a loss'}, unlike for the "
                f"batches of this phase before it. Its mean is over all of them: return one for each, or for none."
            )
        if weighted.metrics != names and weighted.tolist():
            raise LossError(
                f"{source_of(plain.task)} returned the parts {', '.join(output.parts) or '(none)'}; with the metrics "
                f"that is other than {', '.join(weighted.metrics) or '(nothing)'}, of which this phase has means "
                f"already. They are over all of its batches: return the same parts for each."
            )
        after = weighted.add(
            means,
            weight if part is None else float(weight),
            self._sums_device,
            names,
            memory=memory or {},
            has_loss=output.loss is not None,
            carried=carried or {},
        )
        shown = BatchOutput(loss, output.preds, MappingProxyType(measured), output.loss is not None)
        return Passed(shown, samples, after, means, flight.lr_scale)

    @staticmethod
    def _output(
        plain: Pass[Batch], batch: Batch, carried: dict[str, Memory] | None, part: Part[Batch] | None, *, train: bool
    ) -> StepOutput[Any]:
        """Evaluate a task; put what it hands on in the place of what was handed to it."""
        kept = None if carried is None else carried.get(plain.name)
        if plain.looks:
            plain.rehearse(batch, train=train, kept=kept)
        evaluate = partial(plain.evaluate, batch, train=train, kept=kept)
        if part is None:
            output = plain.workspace.compute(evaluate, plain.scaled)
        else:

            def weighed() -> StepOutput[Any]:
                output = evaluate()
                plain.weigh(output, batch, part, train=train)
                return output

            output = plain.workspace.compute(weighed, plain.scaled_loss, plain.meet)
        if carried is not None and plain.carries is not None:
            carried[plain.name] = handed_on(output, plain.carries)
        if train and plain.looks:
            plain.check_gradients()
        return output

    def _outputs(
        self, batch: Batch, carried: dict[str, Memory] | None, part: Part[Batch] | None, *, train: bool
    ) -> StepOutput[Any]:
        """Evaluate all objectives in order, and detach what they made; all but the last write at once, if they do."""
        outputs: dict[str, StepOutput[Any]] = {}
        for name, plain in self._passes.items():
            plain.begin(train=train)
            found = self._output(plain, batch, carried, part, train=train)
            outputs[name] = without_graph(found, self._own, found.weight)
            if len(outputs) > 1:  # of the first one it is done with the metrics
                plain.looked()
            if train and len(outputs) < len(self._passes):
                plain.workspace.write_part(name)
        return joined(outputs)


def _clone(tensor: Tensor) -> Tensor:
    return torch.clone(tensor.detach())
