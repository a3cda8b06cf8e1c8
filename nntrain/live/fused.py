"""A forward pass compiled together with its gradients: one call a batch, and no autograd at run time.

What `torch.compile` makes of a forward pass alone is called once to go forward and once more, by autograd, to go
backward; for a small model these calls cost more than what they compute. Compiled with its gradients it is one call.
That takes a pass that torch can trace as one graph. So it is tried out before the first batch is trained on, and what
breaks into several graphs is compiled as always, with a note for the log that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from nntrain.live.compiled import CompileOptions, compiled
from nntrain.values.log_event import Note
from nntrain.values.output import StepOutput, without_graph

Forward = Callable[..., StepOutput[Any]]
"""What is compiled: it returns a loss, and perhaps more."""
_Gradients = tuple[Tensor | None, ...]


class Fused:
    """A function to a `StepOutput`, compiled. Where the gradients are made within, it sets them, and has no graph."""

    def __init__(
        self, forward: Forward, params: Sequence[Tensor], options: CompileOptions, tell: Callable[[Note], None]
    ) -> None:
        self._params = params
        self._tell = tell
        self._plain = compiled(forward, options)
        self._whole: Callable[..., tuple[StepOutput[Any], _Gradients]] | None = compiled(
            _with_gradients(forward, params), options
        )

    def __call__(self, *given: Any) -> StepOutput[Any]:
        """Return what a batch comes to; its loss has a graph only where the gradients are still to be made."""
        if self._whole is None:
            return self._plain(*given)
        output, gradients = self._whole(*given)
        wanted = [param for param in self._params if param.requires_grad]
        for param, gradient in zip(wanted, _apart(gradients), strict=True):
            param.grad = gradient
        return output

    def try_out(self, run: Callable[[], object]) -> None:
        """Call `run`, which calls this, and leave the gradients to autograd from then on if it is no single graph."""
        from torch._dynamo.exc import TorchDynamoException
        from torch._dynamo.utils import counters

        breaks = counters["graph_break"]
        before = breaks.copy()
        try:
            run()
            why = next((reason for reason, count in breaks.items() if count > before[reason]), None)
        except TorchDynamoException as error:
            why = str(error)
        if why is not None:
            self._whole = None
            first = why.strip().partition("\n")[0]
            self._tell(Note("compile.gradients", f"the backward pass is not compiled with the forward pass: {first}"))


def tracing_gradients(*, wanted: bool) -> AbstractContextManager[object]:
    """Let `torch.compile` trace, in a block, what takes gradients: by itself it would break the graph there."""
    return torch._dynamo.config.patch(trace_autograd_ops=True) if wanted else nullcontext()


def _with_gradients(forward: Forward, params: Sequence[Tensor]) -> Callable[..., tuple[StepOutput[Any], _Gradients]]:
    def run(*given: Any) -> tuple[StepOutput[Any], _Gradients]:
        output = forward(*given)
        loss: Any = output.loss  # in training there is one
        wanted = [param for param in params if param.requires_grad]
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        laid = tuple(_laid_out(one, param) for one, param in zip(gradients, wanted, strict=True))
        return without_graph(output, Tensor.detach, output.weight), laid

    return run


def _laid_out(gradient: Tensor | None, param: Tensor) -> Tensor | None:
    """Return a gradient laid out in memory as its parameter is, as backward leaves it; it may be a view."""
    if gradient is None or gradient.layout != torch.strided or gradient.stride() == param.stride():
        return gradient
    return torch.empty_like(param).copy_(gradient)


def _apart(gradients: _Gradients) -> _Gradients:
    """Return gradients of which no two are in the same memory: rules write to them."""
    places = [one.data_ptr() for one in gradients if one is not None and one.layout == torch.strided]
    if len(set(places)) == len(places):
        return gradients
    return tuple(None if one is None else one.clone() for one in gradients)
