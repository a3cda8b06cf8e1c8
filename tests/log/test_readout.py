"""Numbers on a device are read in groups; here the CPU stands in for one that has to be waited for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, accuracy, advance
from nntrain.live.eager import Eager
from nntrain.log import JsonLog, json_log, readout
from nntrain.metrics.measured import MetricFn
from nntrain.sinks.transition import BatchRan

Batch = tuple[Tensor, Tensor]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every tensor be one that reading waits for, and count the reads, each with how many values it had."""
    found: list[int] = []
    stack = torch.stack

    def counting(values: list[Tensor]) -> Tensor:
        if sys._getframe(1).f_globals is vars(readout):  # and not a phase's sums, which nobody waits for
            found.append(len(values))
        return stack(values)

    def waits(value: Any) -> bool:
        return isinstance(value, Tensor)

    monkeypatch.setattr(readout, "waits", waits)
    monkeypatch.setattr(json_log, "waits", waits)
    monkeypatch.setattr(torch, "stack", counting)
    return found


def learner_of(log: JsonLog, batches: int) -> Learner[Batch]:
    source = torch.Generator().manual_seed(0)
    data = [(torch.randn(4, 3, generator=source), torch.randint(0, 2, (4,), generator=source)) for _ in range(batches)]
    metrics: dict[str, MetricFn] = {"acc": accuracy, "one": lambda preds, target: torch.ones(())}
    learner = Learner(
        nn.Linear(3, 2), DataLoaders(data, data[:2]), cross_entropy, metrics, torch.optim.SGD, 0.1, sinks=[log]
    )
    engine = learner.machine.engine
    assert isinstance(engine, Eager)
    engine._sums_device = torch.device("cpu")  # sums and means stay tensors, as on a device
    return learner


def batch_lines(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(len(lines)))
    return [line for line in lines if line["event"] == "batch_finished"]


def test_values_come_back_as_they_were_whatever_their_type(reads: list[int]) -> None:
    ran = [
        BatchRan(0, "train", n, n, n, torch.tensor(n / 3), {"half": torch.tensor(n, dtype=torch.float16), "n": n}, 0.0)
        for n in range(5)
    ]
    found, waited = readout.read_out(ran)
    values = [[one.loss, *one.metrics.values()] for one in found]
    assert waited
    assert values == [[torch.tensor(n / 3).item(), float(n), float(n)] for n in range(5)]
    assert reads == [5, 5], "one read for each type of number"


def test_a_fit_waits_once_for_a_group(tmp_path: Path, reads: list[int]) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path, every="all") as log:
        outcome = learner_of(log, 100).fit(1, print_stats=False)
    # the first batch of a phase is told for itself where a step begins with it; then come groups of 64
    assert len(reads) <= 2 * 4
    lines = batch_lines(path)
    train = [line for line in lines if line["phase"] == "train"]
    assert [line["batch"] for line in train] == list(range(1, 101))
    mean = sum(line["loss"] for line in train) / 100
    assert mean == pytest.approx(outcome.state.history[0].loss)
    assert {line["metrics"]["one"] for line in lines} == {1.0}
    rates = [line["samples_per_s"] for line in train]
    assert all(rate > 0 for rate in rates)
    assert len(set(rates)) <= 4, "the rate is that of the group"


def test_single_steps_wait_once_for_a_group_too(tmp_path: Path, reads: list[int]) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path, every="all") as log:
        learner = learner_of(log, 70)
        state = learner.init(epochs=1)
        while state.progress.step < 10:
            state = advance(learner, state).state
        assert reads == []
        assert batch_lines(path) == []
        while state.progress.phase == "train":
            state = advance(learner, state).state
        assert [line["batch"] for line in batch_lines(path)] == list(range(1, 71))
        assert len(reads) <= 2 * 3
        while state.progress.batch < 1:
            state = advance(learner, state).state
    assert batch_lines(path)[-1]["phase"] == "eval", "what waits is written when the log is closed"
