"""The printed line, to the letter."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import (
    CancelFit,
    DataLoaders,
    EarlyStopping,
    EpochStats,
    Learner,
    PrintStats,
    Sink,
    Subscriber,
    TrainState,
    on,
)
from nntrain.log import JsonLog, read
from nntrain.sinks.print_stats import stats_line
from nntrain.values.log_event import WarningEvent
from nntrain.values.progress import Phase
from nntrain.values.record import FrozenMapping


@pytest.mark.parametrize(
    ("epoch", "phase", "loss", "metrics", "line"),
    [
        (0, "train", 2.1771, {"metric": 0.2179}, "epoch=00 | train | loss=2.177 | metric=0.218"),
        (0, "eval", 1.2, {"metric": 1.0}, "epoch=00 | eval  | loss=1.200 | metric=1.000"),
        (123, "eval", math.nan, {}, "epoch=123 | eval  | loss=nan"),
        (4, "train", 12345.6789, {"acc": 0.5, "f1": 0.25}, "epoch=04 | train | loss=12345.679 | acc=0.500 | f1=0.250"),
    ],
)
def test_the_line(epoch: int, phase: Phase, loss: float, metrics: dict[str, float], line: str) -> None:
    stats = EpochStats(epoch=epoch, phase=phase, loss=loss, metrics=FrozenMapping(metrics), samples=1, batches=1)
    assert stats_line(stats) == line


def test_it_writes_to_a_file_of_ones_own() -> None:
    file = io.StringIO()
    assert PrintStats(file).file is file


BATCH = [(torch.ones(2, 1), torch.ones(2, 1))]


@on("after_epoch")
def stops(state: TrainState) -> TrainState | CancelFit:
    ended = state.progress.epoch == 3 and state.progress.phase == "eval"
    return CancelFit(reason="enough") if ended else state


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (["nan", 1, 1, 1], None),
        ([1, 1, "nan", 1], None),
        ([1, "nan", 1, "nan", "nan", "nan"], "the train loss has not been finite since epoch 3"),
        ([1, "inf", "nan"], "the train loss has not been finite since epoch 1"),
        (["nan"], "the train loss has not been finite since epoch 0"),
    ],
)
@pytest.mark.parametrize("subs", [[], [EarlyStopping(patience=3)], [stops]], ids=["none", "stopping", "cancels"])
def test_a_loss_that_stayed_nan_is_told_at_the_end(
    losses: list[Any], said: str | None, subs: list[Subscriber[object]], tmp_path: Path
) -> None:
    epoch = [0]

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        loss = preds.mean() * 0 + float(losses[epoch[0]])
        epoch[0] += not torch.is_grad_enabled() and epoch[0] < len(losses) - 1
        return loss

    file = io.StringIO()
    sinks: list[Sink] = [PrintStats(file), JsonLog(tmp_path / "log.jsonl")]
    learner = Learner(nn.Linear(1, 1), DataLoaders(BATCH, BATCH), loss_fn, {}, torch.optim.SGD, 0.0, subs, sinks=sinks)
    learner.fit(len(losses))
    lines = file.getvalue().splitlines()
    told = [line.event.text for line in read(tmp_path / "log.jsonl") if isinstance(line.event, WarningEvent)]
    assert [f"warning: {text}" for text in told] == [line for line in lines if not line.startswith("epoch=")]
    if said is None:
        assert told == []
    else:
        assert len(told) == 1
        assert told[0].startswith(said)
        assert "NanGuard()" in told[0]
        assert lines[-1] == f"warning: {told[0]}"


def test_an_eval_loss_that_is_nan_is_told_as_that(capsys: pytest.CaptureFixture[str]) -> None:
    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        return preds.mean() if torch.is_grad_enabled() else preds.mean() * math.nan

    Learner(nn.Linear(1, 1), DataLoaders(BATCH, BATCH), loss_fn, {}, torch.optim.SGD, 0.0).fit(2)
    assert "warning: the eval loss has not been finite since epoch 0." in capsys.readouterr().out
