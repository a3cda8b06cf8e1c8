"""The laws for a `Metric`: its memory is a value, and a phase's value is that of all its samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError, MetricError
from nntrain.metrics.measured import named_metrics
from nntrain.metrics.metric import Metric
from nntrain.metrics.phase import PhaseMetrics, computed, merged
from nntrain.testing.copies import copy_parts
from nntrain.testing.examples import check_examples, st
from nntrain.testing.laws import Law, LawBrokenError
from nntrain.testing.purity import probe_call
from nntrain.values.bits import same_bits
from nntrain.values.output import StepOutput
from nntrain.values.trees import tree_map

Samples = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Makes so many samples of (preds, target), drawn from a generator."""
_CLOSE: Final = 1e-4


def close(one: float, other: float) -> bool:
    """Return whether two numbers are the same to 1e-4, or the same infinity, or both no number."""
    if not (math.isfinite(one) and math.isfinite(other)):
        return same_bits(one, other) or (math.isnan(one) and math.isnan(other))
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)


def check_whole(
    metric: Metric[Any],
    outputs: Sequence[StepOutput[object]] | None,
    samples: Samples,
    examples: int,
    device: torch.device,
) -> None:
    """Check a `Metric` on parts of a phase. Raises `LawBrokenError`, and `ConfigError` for what is no metric."""
    named_metrics({"metric": metric})
    given = None if outputs is None else [_moved(output, device) for output in outputs]
    if given is not None and not given:
        raise ConfigError("outputs is empty; expected what a few batches gave.")
    sizes = st.lists(st.integers(1, 4), min_size=2, max_size=4)
    drawn = st.tuples(
        st.just([1]) if given is not None else sizes, st.integers(0, 1000), st.randoms(use_true_random=False)
    )

    def check(one: tuple[list[int], int, Any]) -> None:
        sizes, seed, chooser = one
        if given is not None:
            _Checks(metric, device, f"the {len(given)} outputs that were given").parts(given, chooser.randrange)
            return
        pairs = samples(sum(sizes), torch.Generator().manual_seed(seed))
        preds, target = (torch.split(part, sizes) for part in pairs)
        parts = [_moved(StepOutput(None, *pair, len(pair[0])), device) for pair in zip(preds, target, strict=True)]
        checks = _Checks(metric, device, f"{' and '.join(map(str, sizes))} samples of seed {seed}")
        found = checks.parts(parts, chooser.randrange)
        checks.whole(_moved(StepOutput(None, *pairs, sum(sizes)), device), found)

    check_examples(check, drawn, examples, describe=lambda one: f"{one[0]} samples of seed {one[1]}")


def _moved(output: StepOutput[Any], device: torch.device) -> StepOutput[Any]:
    preds, target = tree_map((output.preds, output.target), lambda tensor: tensor.detach().to(device))
    return StepOutput(output.loss, preds, target, output.weight, output.parts)


class _Probed(Metric[Any]):
    """A metric, each call of which is looked at."""

    def __init__(self, metric: Metric[Any], broken: Callable[[Law, str], LawBrokenError]) -> None:
        self._metric = metric
        self._broken = broken
        self.names = getattr(metric, "names", None)

    def init(self) -> Any:
        return probe_call(lambda: self._metric.init(), self._broken)  # noqa: PLW0108 - the function called is not looked at

    def update(self, memory: Any, output: StepOutput[Any], /) -> Any:
        return probe_call(lambda: self._metric.update(memory, output), self._broken)

    def merge(self, one: Any, other: Any, /) -> Any:
        return probe_call(lambda: self._metric.merge(one, other), self._broken)

    def compute(self, memory: Any, /) -> Any:
        return probe_call(lambda: self._metric.compute(memory), self._broken)


class _Checks:
    """One metric, and the run that is tried."""

    def __init__(self, metric: Metric[Any], device: torch.device, run: str) -> None:
        self._subject = type(metric).__name__
        self._run = run
        self._metric = _Probed(metric, self._broken)
        self._metrics = PhaseMetrics({"metric": self._metric}, device)

    def parts(self, outputs: list[StepOutput[Any]], choose: Callable[[int], int]) -> Mapping[str, float]:
        """Check a phase of these batches, and parts of it, merged as `choose` says; return its values."""
        found = self._values(self._fold(outputs))
        again = self._values(self._fold(outputs))
        if not same_bits(dict(found), dict(again)):
            raise self._broken("determinism", f"gave {dict(found)}, and then {dict(again)} for the same")
        parts = [self._fold([output]) for output in outputs]
        parts.insert(choose(len(parts) + 1), self._fold([]))
        turned = parts[::-1]
        while len(parts) > 1:
            at = choose(len(parts) - 1)  # neighbours, in their order
            parts[at : at + 2] = [self._merged(*parts[at : at + 2])]
        self._same("merge", found, self._values(parts[0]), "where parts, one of them empty, were merged")
        self._same("order", found, self._values(reduce(self._merged, turned)), "where the last part came first")
        return found

    def _merged(self, one: Any, other: Any) -> Any:
        return self._called(partial(merged, "metric", self._metric, one, other))

    def whole(self, output: StepOutput[Any], found: Mapping[str, float]) -> None:
        """Check that one batch of all samples gives what was `found` of several."""
        self._same("batching", self._values(self._fold([output])), found, "in several batches")

    def _fold(self, outputs: list[StepOutput[Any]]) -> Any:
        memory = self._called(self._metrics.init)
        for output in outputs:
            before = copy_parts((output.preds, output.target))
            memory = self._called(partial(self._metrics.update, memory, output))
            if not same_bits(before, (output.preds, output.target)):
                raise self._broken("immutability", "wrote to what the batch gave")
        return memory["metric"]

    def _values(self, memory: Any) -> Mapping[str, float]:
        found: Mapping[str, float] = self._called(partial(computed, "metric", self._metric, memory))
        return found

    def _called(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except MetricError as error:
            law: Law = "immutability" if "writes to the memory" in str(error) else "answers"
            raise self._broken(law, f"is refused: {error}") from error

    def _same(self, law: Law, one: Mapping[str, float], other: Mapping[str, float], where: str) -> None:
        if one.keys() != other.keys() or not all(close(one[name], other[name]) for name in one):
            raise self._broken(law, f"gave {dict(one)} of all samples, and {dict(other)} {where}")

    def _broken(self, law: Law, said: str) -> LawBrokenError:
        return LawBrokenError(law, self._subject, f"it {said}", run=self._run)
