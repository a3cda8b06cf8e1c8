"""`check_metric`: what a metric must be for its sample-weighted means to mean something."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from nntrain.metrics.measured import MetricFn
from nntrain.testing.broken import Law, LawBrokenError
from nntrain.testing.purity import watched
from nntrain.testing.shown import copied
from nntrain.testing.trying import expect_callable, st, tried
from nntrain.values.bits import same_bits
from nntrain.values.trees import described

Samples = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""What makes so many samples of (preds, target), by drawing from a generator."""
_CLOSE = 1e-4


def classified(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make scores of four classes, float32 [count, 4], and class numbers, int64 [count]."""
    return torch.randn(count, 4, generator=source), torch.randint(0, 4, (count,), generator=source)


def check_metric(
    metric: MetricFn, *, samples: Samples = classified, examples: int = 50, device: torch.device | str = "cpu"
) -> None:
    """Hold a metric, or a loss function, to what nntrain makes of it: means over batches, weighted by their samples.

    `samples` makes what it is tried on: by default scores of four classes and class numbers.

    Raises `LawBrokenError`: no 0-dim tensor on the predictions' device ("answers"), a write to its arguments
    ("immutability"), another number for the same ("determinism"), one that depends on the order of the samples
    ("order"), or that is no mean over them ("means": F1 of the whole, say, is not the mean of the batches'), effects.
    """
    expect_callable(metric, "metric", "a function of (preds, target) to a 0-dim tensor")
    name = getattr(metric, "__name__", type(metric).__name__)
    drawn = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
    called = cast(Callable[[Any, Any], object], metric)
    tried(lambda one: _check(called, name, samples, torch.device(device), one), drawn, examples)


def _check(
    metric: Callable[[Any, Any], object], name: str, samples: Samples, device: torch.device, drawn: tuple[int, int, int]
) -> None:
    first, second, seed = drawn
    source = torch.Generator().manual_seed(seed)
    parts = [samples(count, source) for count in (first, second)]
    preds, target = (torch.cat([part[index] for part in parts]).to(device) for index in (0, 1))
    run = f"{first} and {second} samples of seed {seed}"

    def broken(law: Law, said: str) -> LawBrokenError:
        return LawBrokenError(law, name, said, run=run)

    def measured(preds: Tensor, target: Tensor) -> float:
        before = copied((preds, target))
        value, seen, moved = watched(lambda: metric(preds, target))
        if seen:
            raise broken(seen[0].law, f"it {seen[0].said}")
        if moved:
            raise broken("manners", f"it changed {' and '.join(moved)}")
        if not same_bits(before, (preds, target)):
            raise broken("immutability", "it wrote to its arguments")
        if not isinstance(value, Tensor) or value.ndim or value.is_complex():
            given = described(value) if isinstance(value, Tensor) else f"{value!r:.60} ({type(value).__name__})"
            raise broken("answers", f"it gave {given}; expected one real number, as a 0-dim tensor")
        if value.device != preds.device:
            raise broken("answers", f"it gave a tensor on {value.device} for predictions on {preds.device}")
        return float(value)

    whole = measured(preds, target)
    again = measured(preds, target)
    if not same_bits(whole, again):
        raise broken("determinism", f"it gave {whole}, and then {again} for the same")
    turned = measured(preds.flip(0), target.flip(0))
    if not _close(whole, turned):
        said = f"it depends on the order of the samples: {whole}, and {turned} the other way round"
        raise broken("order", said)
    of_parts = [measured(*(one.to(device) for one in part)) for part in parts]
    mean = (of_parts[0] * first + of_parts[1] * second) / (first + second)
    if not _close(whole, mean):
        raise broken(
            "means",
            f"it is no mean over the samples: {whole} of all, but {mean} as the weighted mean of {of_parts[0]} and "
            f"{of_parts[1]}",
        )


def _close(one: float, other: float) -> bool:
    if not (math.isfinite(one) and math.isfinite(other)):
        return same_bits(one, other) or (math.isnan(one) and math.isnan(other))
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)
