"""The confusion matrix and the worst predictions are those of a hand-written loop over the data; nothing is touched."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nntrain import DataLoaders, EpochStats, Learner, StepOutput, TrainState, advance, carry, fit_step
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError, DataError, LossError, MetricError
from nntrain.log import JsonLog, read
from nntrain.looking import ConfusionLog, confusion_matrix, worst_predictions
from nntrain.metrics import Confusion
from nntrain.testing import check_subscriber
from nntrain.update import optimizer
from nntrain.values.looks import ConfusionMatrix
from tests.looking.setting import DATA, Batch, Net, learner_of, make_model


def by_hand(state: TrainState, data: list[Batch], classes: int = 3) -> list[list[int]]:
    module, counts = state.to_module(), [[0] * classes for _ in range(classes)]
    for inputs, target in data:
        for one, taken in zip(target.tolist(), module(inputs).argmax(1).tolist(), strict=True):
            counts[one][taken] += 1
    return counts


@pytest.fixture(scope="module")
def trained() -> tuple[Learner[Batch, Tensor], TrainState]:
    learner = learner_of()
    return learner, learner.fit(1, print_stats=False).state


def test_the_matrix_is_a_hand_written_count(trained: tuple[Learner[Batch, Tensor], TrainState]) -> None:
    learner, state = trained
    kept = learner_of().fit(1, print_stats=False).state
    found = confusion_matrix(learner, state, DATA)
    assert [list(row) for row in found.counts] == by_hand(state, DATA)
    assert found.labels == ("0", "1", "2")
    assert found.samples == 30
    right = sum(found.counts[at][at] for at in range(3))
    assert found.accuracy == right / 30
    assert found.recalls[1] == found.counts[1][1] / sum(found.counts[1])
    assert found.precisions[1] == pytest.approx(found.counts[1][1] / sum(row[1] for row in found.counts), nan_ok=True)
    mistaken = found.most_confused(2)
    assert [one[2] for one in mistaken] == sorted((one[2] for one in mistaken), reverse=True)
    assert found.counts[int(mistaken[0][0])][int(mistaken[0][1])] == mistaken[0][2]
    negated = confusion_matrix(learner, state, DATA, classify=lambda preds: (-preds).argmax(1))
    assert negated.samples == 30
    assert negated != found
    named = confusion_matrix(learner, state, labels=["cat", "dog", "<b>"])
    assert [list(row) for row in named.counts] == by_hand(state, DATA[:2])
    assert "dog" in str(named)
    assert state == kept
    assert fit_step(learner, state, 1).state == fit_step(learner_of(), kept, 1).state


def own_task(model: Net, batch: Batch) -> StepOutput[Tensor]:
    preds = model(batch[0])
    return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1])


def test_a_task_of_one_s_own_gives_predictions_and_target() -> None:
    learner: Learner[Batch, Tensor] = Learner.of(
        make_model(),
        DataLoaders(DATA, {"near": DATA[:1], "far": DATA[1:]}),
        own_task,
        optimizer(torch.optim.SGD, lr=0.1),
    )
    state = learner.init()
    assert [list(row) for row in confusion_matrix(learner, state, "far").counts] == by_hand(state, DATA[1:])
    with pytest.raises(ConfigError, match=r"confusion_matrix: dls.valid has near, far; say .* confusion_matrix\("):
        confusion_matrix(learner, state)
    with pytest.raises(ConfigError, match=r"worst_predictions\(..., loss_fn=cross_entropy\)"):
        worst_predictions(learner, state, "far")
    worst = worst_predictions(learner, state, "far", loss_fn=cross_entropy, most=1)
    assert worst[0].loss == pytest.approx(max(losses_by_hand(state, DATA[1:])))

    def without(model: Net, batch: Batch) -> StepOutput[Tensor]:
        return StepOutput(model(batch[0]).mean(), model(batch[0]))

    with pytest.raises(LossError, match="returned no target"):
        confusion_matrix(learner.replace(task=without), state, "far")


def losses_by_hand(state: TrainState, data: list[Batch]) -> list[float]:
    module = state.to_module()
    found: list[float] = []
    for inputs, target in data:
        found += cross_entropy(module(inputs), target, reduction="none").tolist()
    return found


def test_the_worst_predictions_are_those_of_the_highest_loss(
    trained: tuple[Learner[Batch, Tensor], TrainState],
) -> None:
    learner, state = trained
    found = worst_predictions(learner, state, DATA, most=4)
    losses = losses_by_hand(state, DATA)
    order = sorted(range(len(losses)), key=lambda at: -losses[at])[:4]
    assert [one.index for one in found] == order
    assert [one.loss for one in found] == pytest.approx([losses[at] for at in order])
    module = state.to_module()
    for one in found:
        inputs, target = DATA[one.index // 6][0][one.index % 6], DATA[one.index // 6][1][one.index % 6]
        assert isinstance(one.preds, Tensor)
        assert isinstance(one.batch, tuple)
        assert torch.equal(one.batch[0], inputs)
        assert torch.equal(one.batch[1], target)
        assert one.target == target
        torch.testing.assert_close(one.preds, module(DATA[one.index // 6][0])[one.index % 6])
    assert len(worst_predictions(learner, state, DATA, most=1000)) == 30


def test_a_loss_that_is_nan_is_the_worst() -> None:
    data = [(torch.tensor([[1.0], [2.0], [math.nan]]), torch.zeros(3, 1))]
    learner = Learner(nn.Linear(1, 1), DataLoaders(data, data), mse_loss, {}, torch.optim.SGD, 0.1)
    assert [one.index for one in worst_predictions(learner, learner.init(), most=1)] == [2]
    regression = [(torch.ones(2, 1), torch.tensor([[0.5], [1.0]]))]
    with pytest.raises(MetricError, match="expected logits of"):
        confusion_matrix(learner, learner.init(), regression)
    odd = [(torch.ones(2, 1), torch.zeros(3, 1))]
    with pytest.raises(DataError, match="expected both to have the samples first"):
        worst_predictions(learner, learner.init(), odd)


def test_the_log_has_the_matrix_of_each_phase_also_where_a_run_was_resumed(tmp_path: Path) -> None:
    def learner_with(log: JsonLog) -> Learner[Batch, Tensor]:
        sub = ConfusionLog("recall", labels=["a", "b", "c"])
        return learner_of(metric_fn={"recall": Confusion(3)}, subs=[sub], sinks=[log])

    with JsonLog(tmp_path / "straight.jsonl") as log:
        learner = learner_with(log)
        state = learner.fit(2, print_stats=False).state
    found = [line.event for line in read(tmp_path / "straight.jsonl") if isinstance(line.event, ConfusionMatrix)]
    assert len(found) == 4
    assert [list(row) for row in found[-1].counts] == by_hand(state, DATA[:2])
    stats: EpochStats = state.history[-1]
    assert stats.metrics["recall"] == pytest.approx(
        sum(one for one in found[-1].recalls if not math.isnan(one))
        / sum(not math.isnan(one) for one in found[-1].recalls)
    )
    with JsonLog(tmp_path / "resumed.jsonl") as log:
        learner = learner_with(log)
        amid = learner.init(epochs=2)
        while amid.progress.at != "after_epoch":
            amid = advance(learner, amid).state
        save(amid, tmp_path / "amid")
    with JsonLog(tmp_path / "resumed.jsonl", resume=True) as log:
        learner = learner_with(log)
        assert fit_step(learner, load(tmp_path / "amid", learner)).state == state
    again = [line.event for line in read(tmp_path / "resumed.jsonl") if isinstance(line.event, ConfusionMatrix)]
    assert again == found


@pytest.mark.sweep
def test_it_is_a_subscriber_by_the_laws() -> None:
    check_subscriber(
        lambda: ConfusionLog("recall"),
        learner=lambda subs: learner_of(metric_fn={"recall": Confusion(3)}, subs=subs),
        examples=2,
    )


def test_what_cannot_be_meant_is_refused(trained: tuple[Learner[Batch, Tensor], TrainState]) -> None:
    learner, state = trained
    for labels in (["a", "a", "b"], "abc", [], [1, 2, 3]):
        with pytest.raises(ConfigError, match="labels is"):
            confusion_matrix(learner, state, labels=labels)  # type: ignore[arg-type] # the mistakes
    with pytest.raises(MetricError, match="The target has 2; expected classes: whole numbers from 0, below 2"):
        confusion_matrix(learner, state, DATA, labels=["a", "b"])
    with pytest.raises(ConfigError, match="most is 0"):
        worst_predictions(learner, state, most=0)
    with pytest.raises(ConfigError, match="recall"):
        learner_of(subs=[ConfusionLog("recall")]).fit(1, print_stats=False)
    with pytest.raises(ConfigError, match="keeps no confusion matrix"):
        learner_of(subs=[ConfusionLog("accuracy")]).fit(1, print_stats=False)


def test_a_task_that_carries_goes_on_from_batch_to_batch() -> None:
    def task(model: Net, batch: Batch, kept: Tensor | None) -> tuple[StepOutput[Tensor], Tensor]:
        preds = model(batch[0]) if kept is None else kept  # those of the first batch for all of them
        return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1]), preds

    data = [one for one in DATA if len(one[0]) == len(DATA[0][0])]
    learner = Learner.of(make_model(), DataLoaders(data, data), carry(task), optimizer(torch.optim.SGD, lr=0.1))
    state = learner.init()
    first = state.to_module()(data[0][0])
    counts = [[0] * 3 for _ in range(3)]
    for _, target in data:
        for one, taken in zip(target.tolist(), first.argmax(1).tolist(), strict=True):
            counts[one][taken] += 1
    assert len(data) > 1
    assert [list(row) for row in confusion_matrix(learner, state, data).counts] == counts
    worst = worst_predictions(learner, state, data, most=99, loss_fn=cross_entropy)
    assert all(torch.equal(torch.as_tensor(one.preds), first[one.index % len(first)]) for one in worst)
