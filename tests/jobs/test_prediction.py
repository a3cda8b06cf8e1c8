"""Use what was trained: predict for data without targets, and evaluate a checkpoint on another set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, TrainState, accuracy, evaluate, predict
from nntrain.checkpoint import load, save
from tests.jobs import check_length

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)


def batch(count: int) -> Batch:
    return torch.randn(count, 10, generator=RANDOM), torch.randint(0, 3, (count,), generator=RANDOM)


TRAIN, TEST = [batch(16) for _ in range(6)], [batch(16), batch(16), batch(4)]
UNLABELLED = [x for x, _ in TEST]


def classifier() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3)
    return nn.Sequential(*layers)


LEARNER = Learner(classifier(), DataLoaders(TRAIN, None), cross_entropy, {"accuracy": accuracy}, torch.optim.Adam, 1e-2)


@pytest.fixture(scope="module")
def state() -> TrainState:
    return LEARNER.fit(1, print_stats=False).state


def plain(model: nn.Module) -> Tensor:
    model.eval()
    preds = []
    with torch.no_grad():
        for x in UNLABELLED:
            preds.append(model(x).argmax(1))
    return torch.cat(preds)


def ours(state: TrainState) -> Tensor:
    return torch.cat([preds.argmax(1) for preds in predict(LEARNER, state, UNLABELLED)])


def test_predictions_of_data_without_targets(state: TrainState) -> None:
    assert torch.equal(ours(state), plain(state.to_module(train=True)))
    check_length(ours, plain)


def plain_evaluation(model: nn.Module) -> tuple[float, float]:
    model.eval()
    total, right, count = 0.0, 0, 0
    with torch.no_grad():
        for x, y in TEST:
            preds = model(x)
            total += cross_entropy(preds, y).item() * len(y)
            right += int((preds.argmax(1) == y).sum())
            count += len(y)
    return total / count, right / count


def ours_evaluation(file: Path) -> tuple[float, float]:
    stats = evaluate(LEARNER, load(file, LEARNER), TEST)
    return stats.loss, stats.metrics["accuracy"]


def test_a_checkpoint_is_evaluated_on_another_set(state: TrainState, tmp_path: Path) -> None:
    save(state, tmp_path / "trained.safetensors")
    assert ours_evaluation(tmp_path / "trained.safetensors") == plain_evaluation(state.to_module())
    check_length(ours_evaluation, plain_evaluation)
