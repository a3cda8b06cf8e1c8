"""torchmetrics' metrics as metrics of a phase: which can be, how they are called, what they come to."""

from __future__ import annotations

import copy
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from nntrain import Metric, StepOutput
from nntrain.errors import ConfigError, MetricError, MissingExtraError
from nntrain.metrics import from_torchmetrics
from nntrain.metrics.measured import named_metrics
from nntrain.metrics.phase import PhaseMetrics, computed, merged
from nntrain.values.bits import same_bits

torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: nntrain[torchmetrics]")

from torchmetrics.aggregation import MeanMetric, SumMetric  # noqa: E402
from torchmetrics.classification import (  # noqa: E402
    BinaryAUROC,
    BinaryRecallAtFixedPrecision,
    BinaryROC,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)
from torchmetrics.regression import (  # noqa: E402
    MeanSquaredError,
    PearsonCorrCoef,
    R2Score,
    SpearmanCorrCoef,
)
from torchmetrics.retrieval import RetrievalMRR  # noqa: E402
from torchmetrics.wrappers import MinMaxMetric, Running  # noqa: E402


def outputs(sizes: list[int]) -> list[StepOutput[Tensor]]:
    source = torch.Generator().manual_seed(sum(sizes))
    made = [(torch.randn(n, generator=source), torch.randint(0, 2, (n,), generator=source)) for n in sizes]
    return [StepOutput(None, preds, target, len(target)) for preds, target in made]


def value_of(metric: Metric[Any], given: list[StepOutput[Tensor]]) -> Mapping[str, float]:
    metrics = PhaseMetrics({"m": metric})
    memory: dict[str, Any] = {}
    for output in given:
        memory = metrics.update(memory, output)
    return computed("m", metric, memory["m"])


class Decays(torchmetrics.Metric):  # type: ignore[misc, name-defined] # of a module that may be missing
    """Its update depends on what was collected before."""

    full_state_update = True
    value: Any

    def __init__(self, reduce: Any = "sum", start: float = 0.0) -> None:
        super().__init__()
        self.add_state("value", torch.tensor(start), dist_reduce_fx=reduce)

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.value = 0.9 * self.value + preds.sum()

    def compute(self) -> Any:
        return self.value


class Adds(Decays):
    full_state_update = False


class Stateless(torchmetrics.Metric):  # type: ignore[misc, name-defined] # of a module that may be missing
    def update(self, preds: Tensor, target: Tensor) -> None: ...

    def compute(self) -> float:
        return 0.0


class Counts(Adds):
    """Keeps something that is none of its states."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.count += 1


def median(values: Tensor) -> Tensor:
    return values.median()


REFUSED: dict[str, tuple[Any, str]] = {
    "no reduction": (
        PearsonCorrCoef(),
        "cannot take PearsonCorrCoef: its state mean_x has no reduction, so that parts",
    ),
    "an own reduction": (
        Adds(reduce=median),
        r"cannot take Adds: its state value has a reduction of its own \(median\)",
    ),
    "no 0": (Adds(start=1.0), "cannot take Adds: its state value is summed, and does not begin at 0"),
    "the full state": (Decays(), "cannot take Decays: by its full_state_update=True"),
    "a wrapper": (
        MinMaxMetric(MeanSquaredError()),
        r"cannot take MinMaxMetric: it holds modules of its own \(_base_metric",
    ),
    "running": (Running(SumMetric(), window=3), "cannot take Running: it holds modules"),
    "a sum of two": (MeanSquaredError() + MeanMetric(), "cannot take CompositionalMetric: it holds modules"),
    "no states": (Stateless(), "cannot take Stateless: it has no states"),
    "a class": (BinaryAUROC, r"got the class BinaryAUROC; expected an object: BinaryAUROC\(\.\.\.\)"),
    "a function": (mse_loss, r"got <function mse_loss.*; expected a torchmetrics.Metric, like BinaryAUROC\(\)"),
    "none": (torchmetrics.MetricCollection({}), "a MetricCollection without metrics"),
    "one of several": (torchmetrics.MetricCollection({"p": PearsonCorrCoef()}), "cannot take PearsonCorrCoef"),
}


@pytest.mark.parametrize(("metric", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_merged_is_refused_by_name(metric: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_torchmetrics(metric)


def test_an_object_of_theirs_is_no_metric_by_itself() -> None:
    with pytest.raises(
        ConfigError, match=r"expected nntrain.metrics.from_torchmetrics\(BinaryAUROC\(...\)\), whose mem"
    ):
        named_metrics({"auroc": BinaryAUROC()})


def test_what_is_told_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'nntrain[torchmetrics]'")):
        from_torchmetrics(BinaryAUROC())


def test_inputs_say_what_an_update_is_given() -> None:
    given = outputs([3, 4])
    mrr = from_torchmetrics(
        RetrievalMRR(),
        lambda output: {
            "preds": output.preds,
            "target": output.target,
            "indexes": torch.zeros(len(output.preds)).long(),
        },
    )
    assert 0 < value_of(mrr, given)["m"] <= 1
    mean = from_torchmetrics(MeanMetric(), lambda output: (output.preds.mean(), output.weight))
    wanted = torch.cat([one.preds for one in given]).mean().item()
    assert value_of(mean, given)["m"] == pytest.approx(wanted)
    assert value_of(from_torchmetrics(MeanMetric()), given)["m"] == pytest.approx(wanted)
    assert value_of(from_torchmetrics(SumMetric()), given)["m"] == pytest.approx(7 * wanted)
    with pytest.raises(ConfigError, match="inputs is 'preds'; expected a function"):
        from_torchmetrics(MeanMetric(), "preds")  # type: ignore[arg-type] # the mistake
    with pytest.raises(
        MetricError, match=r"inputs of torchmetrics' MeanMetric returned float32\[3\]; expected a tuple"
    ):
        value_of(from_torchmetrics(MeanMetric(), lambda output: output.preds), given)


def test_results_that_are_several_numbers_are_named() -> None:
    preds, target = torch.eye(3), torch.tensor([0, 1, 1])
    given: Any = [StepOutput(None, preds, target, 3)]
    matrix = value_of(from_torchmetrics(MulticlassConfusionMatrix(3)), given)
    assert matrix["m/0/0"] == matrix["m/1/1"] == matrix["m/1/2"] == 1
    assert sum(matrix.values()) == 3
    assert len(matrix) == 9
    each = value_of(from_torchmetrics(MulticlassF1Score(3, average=None)), given)
    assert list(each) == ["m/0", "m/1", "m/2"]
    both = torchmetrics.MetricCollection([MulticlassAccuracy(3, average="micro"), MulticlassF1Score(3)], prefix="val_")
    assert value_of(from_torchmetrics(both), given)["m/val_MulticlassAccuracy"] == pytest.approx(2 / 3)
    best = from_torchmetrics(BinaryRecallAtFixedPrecision(min_precision=0.5))
    assert list(value_of(best, outputs([3, 3]))) == ["m/0", "m/1"]  # the recall, and its threshold
    with pytest.raises(
        MetricError, match=r"torchmetrics' BinaryROC returned tuple\(.*; expected a number, or a vector"
    ):
        value_of(from_torchmetrics(BinaryROC()), outputs([3, 3]))


def test_what_is_no_state_is_told() -> None:
    with pytest.raises(MetricError, match="update of torchmetrics' Counts sets count, which is none of its states"):
        value_of(from_torchmetrics(Counts()), outputs([3]))


def test_the_object_given_is_neither_used_nor_touched() -> None:
    original = R2Score()
    original.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    before: dict[str, Any] = copy.deepcopy(original.metric_state)
    fresh = value_of(from_torchmetrics(R2Score()), outputs([4, 5]))
    assert value_of(from_torchmetrics(original), outputs([4, 5])) == fresh
    assert same_bits(original.metric_state, before)


def _as_floats(output: StepOutput[Any]) -> tuple[Tensor, Tensor]:
    assert isinstance(output.target, Tensor)
    return output.preds, output.target.float()


def test_many_batches_are_few_tensors() -> None:
    """What is to be concatenated is, now and then; the order of the samples stays."""
    metric = from_torchmetrics(SpearmanCorrCoef(), _as_floats)
    metrics, given = PhaseMetrics({"m": metric}), outputs([3] * 200)
    memory: dict[str, Any] = {}
    for output in given:
        memory = metrics.update(memory, output)
        assert len(memory["m"]["states"]["preds"]) <= 9
    assert torch.equal(torch.cat(memory["m"]["states"]["preds"]), torch.cat([one.preds for one in given]))


def test_another_metrics_memory_is_refused() -> None:
    memory = PhaseMetrics({"m": from_torchmetrics(BinaryAUROC())}).update({}, outputs([4])[0])
    with pytest.raises(MetricError, match=r"MeanSquaredError has the states .*; its memory is of preds, target"):
        PhaseMetrics({"m": from_torchmetrics(MeanSquaredError())}).update(memory, outputs([4])[0])


def test_one_object_serves_two_threads() -> None:
    metric, given = from_torchmetrics(BinaryAUROC()), [outputs([5] * 20), outputs([7] * 20)]
    wanted = [value_of(from_torchmetrics(BinaryAUROC()), one) for one in given]
    found: list[Any] = [None, None]

    def work(index: int) -> None:
        found[index] = value_of(metric, given[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted


def test_a_merge_with_what_has_seen_nothing_is_the_other() -> None:
    for make in (R2Score, MeanMetric, BinaryAUROC):
        metric = from_torchmetrics(make())
        memory = PhaseMetrics({"m": metric}).update({}, outputs([6])[0])["m"]
        for both in ((memory, metric.init()), (metric.init(), memory)):
            assert computed("m", metric, merged("m", metric, *both)) == computed("m", metric, memory)
