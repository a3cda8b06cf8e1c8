"""The log, first form: five events, strict JSON, whole lines, and a training that goes on when it fails."""

from __future__ import annotations

import json
import math
import os
import threading
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nntrain import (
    CancelEpoch,
    CancelFit,
    DataLoaders,
    Learner,
    Subscriber,
    TrainState,
    accuracy,
    advance,
    fit_step,
)
from nntrain.errors import LogError, NNTrainError, SinkWarning
from nntrain.events import AnswerEpoch
from nntrain.log import JsonLog, LogEvent
from nntrain.records import EpochStats, History

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(n, 3, generator=SOURCE), torch.randint(0, 2, (n,), generator=SOURCE)) for n in (4, 4, 2)]
HEAD = ["event", "schema", "timestamp", "level", "run_id", "seq", "elapsed_s", "rank"]
PLACE = ["epoch", "phase", "batch", "step", "samples"]


def learner_of(log: JsonLog, **changes: Any) -> Learner[Batch]:
    arguments: dict[str, Any] = {
        "model": nn.Linear(3, 2),
        "dls": DataLoaders(DATA, DATA[:2]),
        "loss_fn": cross_entropy,
        "metric_fn": accuracy,
        "optim_class": torch.optim.SGD,
        "lr": 0.1,
        "sinks": [log],
        **changes,
    }
    return Learner(**arguments)


def refused(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read a log as a strict reader does."""
    text = path.read_bytes().decode("utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line, parse_constant=refused) for line in text.split("\n")[:-1]]


def names(lines: list[dict[str, Any]]) -> list[str]:
    return [line["event"] for line in lines]


class Stops(Subscriber[Batch]):
    """Cancels the eval phase of epoch 0 and the fit in epoch 1."""

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        match state.progress.epoch, state.progress.phase:
            case 0, "eval":
                return CancelEpoch(reason="kein Bedarf: größer\n\x1b[31m\udce9")
            case 1, "train":
                return CancelFit(reason="enough")
            case _:
                return state


def test_the_lines_of_a_fit(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        outcome = learner_of(log).fit(2, seed=3, print_stats=False)
    lines = lines_of(path)
    assert names(lines) == ["run_started", *["epoch_finished"] * 4, "run_finished"]
    assert [line["seq"] for line in lines] == list(range(6))
    for line in lines:
        assert [name for name in line if name in HEAD] == HEAD == list(line)[: len(HEAD)]
        assert list(line)[len(HEAD) : len(HEAD) + 5] == PLACE
        assert line["schema"] == "nntrain.event/1"
        assert line["level"] == "info"
        assert line["rank"] == 0
        assert line["timestamp"].endswith("Z")
        assert len(line["timestamp"]) == len("2026-01-01T00:00:00.000000Z")
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
    assert len({line["run_id"] for line in lines}) == 1
    assert str(uuid.UUID(lines[0]["run_id"])) == lines[0]["run_id"]
    elapsed = [line["elapsed_s"] for line in lines]
    assert elapsed == sorted(elapsed)
    config = lines[0]["config"]
    assert config["seed"] == 3
    assert config["device"] == "cpu"
    assert config["parameters"] == config["trainable_parameters"] == 8
    assert config["versions"]["torch"] == torch.__version__
    assert {"model", "optimizer", "lr", "loss_fn", "metrics", "subscribers", "host"} <= set(config)
    assert lines[-1]["outcome"] == "completed"
    rebuilt = History(
        EpochStats(**{name: line[name] for name in ("epoch", "phase", "loss", "metrics", "samples", "batches")})
        for line in lines
        if line["event"] == "epoch_finished"
    )
    assert rebuilt == outcome.state.history
    assert lines[1]["seconds"] > 0


def test_every_line_is_an_event_of_the_union(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        learner_of(log, subs=[Stops()]).fit(2, print_stats=False)
    adapter: TypeAdapter[LogEvent] = TypeAdapter(LogEvent)
    head = {*HEAD} - {"event", "level"}
    for line in lines_of(path):
        adapter.validate_python({name: value for name, value in line.items() if name not in head})


def test_cancels_say_who_where_and_why(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        learner_of(log, subs=[Stops()]).fit(5, print_stats=False)
    lines = lines_of(path)
    assert names(lines) == ["run_started", "epoch_finished", "cancelled", "cancelled", "run_finished"]
    epoch, fit = lines[2:4]
    assert (epoch["scope"], epoch["subscriber"], epoch["at"]) == ("epoch", "Stops", "before_epoch")
    assert (epoch["epoch"], epoch["phase"]) == (0, "eval")
    assert epoch["reason"] == "kein Bedarf: größer\n\x1b[31m\\udce9"
    assert b"\x1b" not in path.read_bytes()
    assert (fit["scope"], fit["epoch"], fit["phase"]) == ("fit", 1, "train")
    assert lines[-1]["outcome"] == "cancelled"


@pytest.mark.parametrize(("value", "kind"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_what_is_not_finite_is_null_and_named(tmp_path: Path, value: float, kind: str) -> None:
    path = tmp_path / "run.jsonl"
    batches = [(torch.zeros(2, 3), torch.zeros(2, 2))]
    with JsonLog(path) as log:
        learner_of(
            log,
            dls=DataLoaders(batches, batches),
            loss_fn=lambda preds, target: mse_loss(preds, target) * 0 + value,
            metric_fn={"good": lambda preds, target: 1, "bad": lambda preds, target: value},
        ).fit(1, print_stats=False)
    for line in lines_of(path)[1:3]:
        assert line["loss"] is None
        assert line["metrics"] == {"good": 1.0, "bad": None}
        assert line["nonfinite"] == {"loss": kind, "metrics.bad": kind}


def test_a_failure_is_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"

    def broken(preds: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("no loss\ntoday")

    with JsonLog(path) as log, pytest.raises(RuntimeError, match="today"):
        learner_of(log, loss_fn=broken).fit(1)
    lines = lines_of(path)
    assert names(lines) == ["run_started", "run_failed"]
    failed = lines[-1]
    assert failed["level"] == "error"
    assert (failed["error_type"], failed["message"]) == ("RuntimeError", "no loss\ntoday")
    assert failed["where"] == "batch, train of epoch 0"
    assert "in broken" in failed["traceback"]


def test_each_fit_is_a_run_of_its_own_and_a_resumed_one_too(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        learner = learner_of(log)
        first = learner.fit(1, print_stats=False).state
        fit_step(learner, first, 1)
    with JsonLog(path) as log:
        learner = learner_of(log)
        state = learner.init(epochs=1)
        while state.progress.step < 2:
            state = advance(learner, state).state
    with JsonLog(path) as log:
        fit_step(learner_of(log), state)
    lines = lines_of(path)
    runs = list(dict.fromkeys(line["run_id"] for line in lines))
    by_run = [[line for line in lines if line["run_id"] == run] for run in runs]
    assert [names(run)[-1] for run in by_run] == ["run_finished", "run_finished", "run_started", "run_finished"]
    for run in by_run:
        assert [line["seq"] for line in run] == list(range(len(run)))
    assert by_run[3][0]["step"] == 2


@pytest.mark.parametrize("path", ["nowhere/run.jsonl", ".", "a\0b"])
def test_a_path_that_cannot_be_written_is_told_at_once(tmp_path: Path, path: str) -> None:
    with pytest.raises(LogError, match="cannot be written") as caught:
        JsonLog(tmp_path / path)
    assert isinstance(caught.value, NNTrainError)
    assert isinstance(caught.value, OSError)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_never_ends_a_training_nor_passes_in_silence() -> None:
    with JsonLog("/dev/full") as log, pytest.warns(SinkWarning, match="No space left on device") as warned:
        outcome = learner_of(log).fit(2, print_stats=False)
    assert len(warned) == 1
    assert log.lost == 6
    assert outcome.sink_failures["JsonLog"] == 6
    assert outcome.state.progress.at == "finished"


def test_the_line_after_lost_ones_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.jsonl"
    writes = iter([True, False, False, True, True, True])
    write = os.write

    def flaky(file: int, content: bytes) -> int:
        if not next(writes):
            raise OSError(28, "No space left on device")
        return write(file, content)

    with JsonLog(path) as log:
        learner = learner_of(log)
        monkeypatch.setattr(os, "write", flaky)
        with pytest.warns(SinkWarning):
            learner.fit(2, print_stats=False)
        monkeypatch.undo()
    lines = lines_of(path)
    assert [line["seq"] for line in lines] == [0, 3, 4, 5]
    assert [line.get("lost_lines") for line in lines] == [None, 2, None, None]
    assert log.lost == 2


def test_a_file_that_was_made_and_never_written_is_removed(tmp_path: Path) -> None:
    with JsonLog(tmp_path / "made.jsonl"):
        assert (tmp_path / "made.jsonl").exists()
    assert not (tmp_path / "made.jsonl").exists()
    (tmp_path / "there.jsonl").touch()
    with JsonLog(tmp_path / "there.jsonl"):
        pass
    assert (tmp_path / "there.jsonl").exists()


def test_two_runs_in_one_file_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"

    def run(number: int) -> None:
        with JsonLog(path, run_id=f"run-{number}") as log:
            learner_of(log).fit(5, seed=number, print_stats=False)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = lines_of(path)
    assert len(lines) == 4 * 12
    for number in range(4):
        assert [line["seq"] for line in lines if line["run_id"] == f"run-{number}"] == list(range(12))


def test_an_applications_structlog_is_left_alone_and_unheard(tmp_path: Path) -> None:
    heard = structlog.testing.LogCapture()
    structlog.configure(processors=[heard])
    try:
        with JsonLog(tmp_path / "run.jsonl") as log:
            learner_of(log).fit(1, print_stats=False)
    finally:
        structlog.reset_defaults()
    assert heard.entries == []
    assert len(lines_of(tmp_path / "run.jsonl")) == 4
