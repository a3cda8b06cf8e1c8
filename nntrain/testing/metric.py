"""`check_metric`: that the value of a metric over batches is its value over all samples, as a mean or as a `Metric`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.metrics.measured import MetricFn
from nntrain.metrics.metric import WholePhaseMetric, is_metric
from nntrain.testing.copies import copy_parts
from nntrain.testing.examples import check_examples, expect_callable, st
from nntrain.testing.laws import Law, LawBrokenError
from nntrain.testing.purity import probe_call
from nntrain.testing.whole_metric import Samples, check_whole, close
from nntrain.values.bits import same_bits
from nntrain.values.output import StepOutput
from nntrain.values.trees import described


def classification_samples(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return random scores of four classes, float32 [count, 4], and class numbers, int64 [count]."""
    return torch.randn(count, 4, generator=source), torch.randint(0, 4, (count,), generator=source)


def check_metric(
    metric: MetricFn | WholePhaseMetric,
    outputs: Sequence[StepOutput[object]] | None = None,
    *,
    samples: Samples = classification_samples,
    examples: int = 50,
    device: torch.device | str = "cpu",
) -> None:
    """Check a metric, or a loss function: that it can be averaged over batches, or is a `Metric` of a whole phase.

    `samples` makes the predictions and the target: by default scores of four classes and class numbers. A `Metric` may
    be given the `outputs` of batches in their place: these are cut into no other batches, and merged in any order.

    Raises `LawBrokenError`: it returns no 0-dim tensor on the predictions' device ("answers"), writes to its arguments
    ("immutability"), returns another number for the same ("determinism"), depends on the order of the samples
    ("order"), is not a mean over them ("means": the F1 of all samples is not the mean of the batches' F1), has effects.
    A `Metric` breaks the law of "answers" by a memory that is no tree of tensors and numbers, or a value that is no
    number; "immutability" by a write to its memory; "batching" by another value for other batches of the same samples;
    "merge" by a value that depends on how parts were put together, or on an empty one among them; "order" by another
    value where the parts were merged in another order, as those of several processes are.
    """
    if is_metric(metric):
        check_whole(metric, outputs, samples, examples, torch.device(device))
        return
    if outputs is not None:
        raise ConfigError("outputs are for a Metric; a function of (preds, target) is given samples.")
    expect_callable(metric, "metric", "a function of (preds, target) to a 0-dim tensor")
    name = getattr(metric, "__name__", type(metric).__name__)
    drawn = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
    called = cast(Callable[[Any, Any], object], metric)
    check_examples(lambda one: _check(called, name, samples, torch.device(device), one), drawn, examples)


def _check(
    metric: Callable[[Any, Any], object], name: str, samples: Samples, device: torch.device, drawn: tuple[int, int, int]
) -> None:
    first, second, seed = drawn
    source = torch.Generator().manual_seed(seed)
    parts = [samples(count, source) for count in (first, second)]
    preds, target = (torch.cat([part[index] for part in parts]).to(device) for index in (0, 1))
    run = f"{first} and {second} samples of seed {seed}"

    def broken(law: Law, said: str) -> LawBrokenError:
        return LawBrokenError(law, name, f"it {said}", run=run)

    def measured(preds: Tensor, target: Tensor) -> float:
        before = copy_parts((preds, target))
        value = probe_call(lambda: metric(preds, target), broken)
        if not same_bits(before, (preds, target)):
            raise broken("immutability", "wrote to its arguments")
        if not isinstance(value, Tensor) or value.ndim or value.is_complex():
            given = described(value) if isinstance(value, Tensor) else f"{value!r:.60} ({type(value).__name__})"
            raise broken("answers", f"gave {given}; expected one real number, as a 0-dim tensor")
        if value.device != preds.device:
            raise broken("answers", f"gave a tensor on {value.device} for predictions on {preds.device}")
        return float(value)

    whole = measured(preds, target)
    again = measured(preds, target)
    if not same_bits(whole, again):
        raise broken("determinism", f"gave {whole}, and then {again} for the same")
    turned = measured(preds.flip(0), target.flip(0))
    if not close(whole, turned):
        raise broken("order", f"depends on the order of the samples: {whole}, and {turned} the other way round")
    of_parts = [measured(*(one.to(device) for one in part)) for part in parts]
    mean = (of_parts[0] * first + of_parts[1] * second) / (first + second)
    if not close(whole, mean):
        raise broken(
            "means",
            f"is no mean over the samples: {whole} of all, but {mean} as the weighted mean of {of_parts[0]} and "
            f"{of_parts[1]}",
        )
