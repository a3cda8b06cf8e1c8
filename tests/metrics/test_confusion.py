"""`Confusion` counts which class was taken for which, over a phase, as a hand-written count does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nntrain import StepOutput
from nntrain.errors import ConfigError, MetricError
from nntrain.metrics import Confusion
from nntrain.metrics.confusion import counted
from nntrain.testing import check_metric


def positive(preds: Tensor) -> Tensor:
    return (preds > 0).long()


@pytest.mark.sweep
def test_it_is_a_metric_by_the_laws() -> None:
    check_metric(Confusion(4), examples=15)


def test_the_value_is_the_mean_recall_of_the_classes_that_occur() -> None:
    metric = Confusion(4)
    target = torch.tensor([0, 0, 0, 1, 1, 2, -100])
    taken = torch.tensor([0, 0, 1, 1, 3, 0, 2])
    memory = metric.update(metric.init(), StepOutput(None, taken, target))
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for one, other in zip(target.tolist()[:-1], taken.tolist()[:-1], strict=True):
        expected[one, other] += 1
    assert torch.equal(memory.matrix, expected)
    assert metric.compute(memory).item() == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert math.isnan(metric.compute(metric.init()).item())


def test_each_pixel_is_one_and_classes_may_be_told() -> None:
    preds, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    metric = Confusion(3)
    memory = metric.update(metric.init(), StepOutput(None, preds, target))
    assert memory.matrix.sum() == 40
    assert memory.matrix.diagonal().sum() == (preds.argmax(1) == target).sum()
    binary = Confusion(2, classify=positive)
    scores, truth = torch.tensor([-1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.0])
    assert binary.update(binary.init(), StepOutput(None, scores, truth)).matrix.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("preds", "target", "said"),
    [
        (torch.randn(2, 3), torch.tensor([0, 3]), "The target has 3; expected classes: whole numbers from 0, below 3"),
        (torch.randn(2, 3), torch.tensor([0, -1]), "The target has -1"),
        (torch.randn(2, 3), torch.tensor([0.0, 0.5]), "The target has 0.5"),
        (torch.tensor([0, 7]), torch.tensor([0, 1]), "The predictions have 7"),
        (torch.randn(2), torch.randn(2), "expected logits of"),
        (torch.randn(2, 3), torch.zeros(3, 3, 3), "expected logits of"),
        (torch.randn(2, 3), None, "expected logits of"),
        ({"logits": torch.randn(2, 3)}, torch.tensor([0, 1]), "say what class|what class each prediction is of"),
    ],
)
def test_what_is_no_class_is_refused(preds: Any, target: Any, said: str) -> None:
    metric = Confusion(3)
    with pytest.raises(MetricError, match=said):
        metric.update(metric.init(), StepOutput(None, preds, target))


def test_where_reading_would_wait_it_is_refused_at_the_end_of_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    def unlooked(*_: Tensor) -> Any:
        return counted(torch.tensor([0, 3, -100]), torch.tensor([0, 1, 9]), 3)

    found = unlooked()
    assert found.matrix.sum() == 1
    with pytest.raises(MetricError, match="Of 1 predictions or targets the class is none"):
        Confusion(3).compute(found)


@pytest.mark.parametrize("classes", [0, -1, True, 2.0, "3"])
def test_what_is_no_number_of_classes_is_refused(classes: Any) -> None:
    with pytest.raises(ConfigError, match="classes is"):
        Confusion(classes)
    with pytest.raises(ConfigError, match="classify is 3"):
        Confusion(2, classify=3)  # type: ignore[arg-type] # the mistake
