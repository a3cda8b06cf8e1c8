"""The log: its events, strict JSON, whole lines, and a training that goes on when it fails."""

from __future__ import annotations

import json
import math
import os
import threading
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import structlog
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nntrain import (
    BatchOutput,
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
from nntrain.errors import ConfigError, LogError, NNTrainError, SinkWarning
from nntrain.log import (
    BatchFinished,
    CancelledEvent,
    EpochStarted,
    FitStarted,
    JsonLog,
    LogEvent,
    RunStarted,
    read,
    replay,
)
from nntrain.subscribers.protocol import AnswerBatch, AnswerEpoch
from nntrain.values.history import EpochStats, History
from nntrain.values.log_event import Level

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(n, 3, generator=SOURCE), torch.randint(0, 2, (n,), generator=SOURCE)) for n in (4, 4, 2)]
HEAD = ["event", "schema", "timestamp", "level", "run_id", "seq", "elapsed_s", "rank"]
PLACE = ["epoch", "phase", "batch", "step", "samples"]
PHASE = ["epoch_started", "epoch_finished"]


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
    assert names(lines) == ["run_started", "fit_started", *PHASE * 4, "fit_finished", "run_finished"]
    assert [line["seq"] for line in lines] == list(range(12))
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
    assert (lines[1]["epochs"], lines[1]["resumed"]) == (2, False)
    assert lines[-2]["outcome"] == "completed"
    rebuilt = History(
        EpochStats(**{name: line[name] for name in ("epoch", "phase", "loss", "metrics", "samples", "batches")})
        for line in lines
        if line["event"] == "epoch_finished"
    )
    assert rebuilt == outcome.state.history
    assert lines[3]["seconds"] > 0
    started = [line for line in lines if line["event"] == "epoch_started"]
    assert [(line["epoch"], line["phase"]) for line in started] == [
        (0, "train"),
        (0, "eval"),
        (1, "train"),
        (1, "eval"),
    ]


def test_every_line_is_read_back_as_the_event_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path, every="all") as log:
        learner_of(log, subs=[Stops()]).fit(2, print_stats=False)
    lines = list(read(path))
    assert [line.event.event for line in lines] == names(lines_of(path))
    assert [line.fields() for line in lines] == lines_of(path)
    assert {type(line.event) for line in lines} >= {RunStarted, FitStarted, EpochStarted, BatchFinished, CancelledEvent}


def test_cancels_say_who_where_and_why(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        learner_of(log, subs=[Stops()]).fit(5, print_stats=False)
    lines = lines_of(path)
    assert names(lines) == [
        "run_started",
        "fit_started",
        *PHASE,
        "cancelled",
        "cancelled",
        "fit_finished",
        "run_finished",
    ]
    epoch, fit = lines[4:6]
    assert (epoch["scope"], epoch["subscriber"], epoch["at"]) == ("epoch", "Stops", "before_epoch")
    assert (epoch["epoch"], epoch["phase"]) == (0, "eval")
    assert epoch["reason"] == "kein Bedarf: größer\n\x1b[31m\\udce9"
    assert b"\x1b" not in path.read_bytes()
    assert (fit["scope"], fit["epoch"], fit["phase"]) == ("fit", 1, "train")
    assert lines[-2]["outcome"] == "cancelled"


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
    finished = [line for line in lines_of(path) if line["event"] == "epoch_finished"]
    assert len(finished) == 2
    for line in finished:
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
    assert names(lines) == ["run_started", "fit_started", "epoch_started", "run_failed"]
    failed = lines[-1]
    assert failed["level"] == "error"
    assert (failed["error_type"], failed["error_message"]) == ("RuntimeError", "no loss\ntoday")
    assert failed["where"] == "batch, train of epoch 0"
    assert "in broken" in failed["traceback"]


def runs_of(lines: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    runs = list(dict.fromkeys(line["run_id"] for line in lines))
    return [[line for line in lines if line["run_id"] == run] for run in runs]


def test_a_training_from_its_beginning_is_a_run_and_one_that_goes_on_continues_it(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        learner = learner_of(log)
        first = learner.fit(1, print_stats=False).state
        fit_step(learner, first, 1)
        learner.fit(1, print_stats=False)
        learner_of(log).fit(1, print_stats=False)
    runs = runs_of(lines_of(path))
    one = ["run_started", "fit_started", *PHASE * 2, "fit_finished", "run_finished"]
    assert [names(run) for run in runs] == [[*one, *one[1:]], one, one]
    for run in runs:
        assert [line["seq"] for line in run] == list(range(len(run)))
    again = runs[0][len(one)]
    assert (again["event"], again["epochs"], again["resumed"], again["step"]) == ("fit_started", 2, False, 3)


def test_a_run_is_resumed_in_another_log(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path, resume=True) as log:
        learner = learner_of(log)
        state = learner.init(epochs=2)
        while state.progress.step < 5:
            state = advance(learner, state).state
    with JsonLog(path, resume=True) as log:
        fit_step(learner_of(log), state)
    (run,) = runs_of(lines_of(path))
    assert [line["seq"] for line in run] == list(range(len(run)))
    assert names(run) == [
        "run_started",
        "fit_started",
        *PHASE * 2,
        "epoch_started",
        "fit_started",
        "epoch_finished",
        *PHASE,
        "fit_finished",
        "run_finished",
    ]
    resumed = run[7]
    assert (resumed["resumed"], resumed["step"], resumed["batch"], resumed["epochs"]) == (True, 5, 2, 2)
    elapsed = [line["elapsed_s"] for line in run]
    assert elapsed == sorted(elapsed)
    with JsonLog(path, resume=True) as log:
        learner_of(log).fit(1, print_stats=False)
    assert len(runs_of(lines_of(path))) == 2, "a training from its beginning is none that is resumed"


def test_a_run_is_resumed_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    ids = [str(uuid.UUID(int=number)) for number in (1, 2)]
    states = []
    for run_id in ids:
        with JsonLog(path, run_id=run_id) as log:
            states.append(learner_of(log).fit(1, print_stats=False).state)
    with JsonLog(path, run_id=ids[0], resume=True) as log:
        fit_step(learner_of(log), states[0], 1)
    first, second = runs_of(lines_of(path))
    assert [line["run_id"] for line in (first[-1], second[-1])] == ids
    assert len(first) > len(second)
    assert [line["seq"] for line in first] == list(range(len(first)))


def test_two_learners_that_take_turns_are_two_runs(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        learners = [learner_of(log), learner_of(log, lr=0.5)]
        states = [learner.init(epochs=1) for learner in learners]
        while any(state.progress.at != "finished" for state in states):
            states = [advance(learner, state).state for learner, state in zip(learners, states, strict=True)]
    runs = runs_of(lines_of(path))
    one = ["run_started", "fit_started", *PHASE * 2, "fit_finished", "run_finished"]
    assert [names(run) for run in runs] == [one, one]
    assert [run[0]["config"]["lr"] for run in runs] == [0.1, 0.5]


def test_batches_are_told_of_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    seen: list[tuple[float, float]] = []

    class Watches(Subscriber[Batch]):
        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
            seen.append((output.loss.item(), float(output.metrics["metric"])))
            return state

    with JsonLog(path, every="all") as log:
        learner = learner_of(log, lr=lambda step: 0.1 / (step + 1))
        learner.fit(2, print_stats=False)
        learner.replace(subs=[Watches()]).fit(2, print_stats=False)
    runs = [[line for line in run if line["event"] == "batch_finished"] for run in runs_of(lines_of(path))]
    for lines in runs:
        assert [(line["loss"], line["metrics"]["metric"]) for line in lines] == seen
        assert [line["batch"] for line in lines] == [1, 2, 3, 1, 2] * 2
        assert [line["step"] for line in lines] == [1, 2, 3, 3, 3, 4, 5, 6, 6, 6]
        assert [line["samples"] for line in lines] == [4, 8, 10, 4, 8] * 2
        assert [line.get("lr") for line in lines] == [0.1, 0.05, 0.1 / 3, None, None, 0.025, 0.02, 0.1 / 6, None, None]
        assert all(line["samples_per_s"] > 0 for line in lines)
        assert {line["level"] for line in lines} == {"debug"}


def test_of_every_so_many_batches_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    data = [DATA[0]] * 7
    with JsonLog(path, every=3) as log:
        learner = learner_of(log, dls=DataLoaders(data, data[:2]))
        learner.fit(1, print_stats=False)
        state = learner.init(epochs=1)
        while state.progress.at != "finished":
            state = advance(learner, state).state
    runs = [[line["batch"] for line in run if line["event"] == "batch_finished"] for run in runs_of(lines_of(path))]
    assert runs == [[3, 6], [3, 6]]


@pytest.mark.parametrize("device_waits", [False, True])
def test_after_so_many_seconds_a_batch_is_logged_whichever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device_waits: bool
) -> None:
    now = [0.0]
    monkeypatch.setattr("nntrain.log.json_log.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("nntrain.log.json_log.waits", lambda _: device_waits)

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        now[0] += 0.4  # that long does a batch take
        return cross_entropy(preds, target)

    with JsonLog(tmp_path / "log.jsonl", every_s=1.0) as log:
        outcome = learner_of(log, loss_fn=loss_fn).fit(epochs=3, print_stats=False)
    lines = lines_of(tmp_path / "log.jsonl")
    ran = [(one["epoch"], one["phase"], one["batch"]) for one in lines if one["event"] == "batch_finished"]
    # it is asked before a batch whether that is to be logged: after 1.2 s, and then each fourth batch
    assert ran == [(0, "eval", 1), (1, "train", 3), (2, "train", 2)]
    assert replay(read(tmp_path / "log.jsonl"))[0].history == outcome.state.history


def test_seconds_and_every_so_many_batches_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nntrain.log.json_log.time", SimpleNamespace(monotonic=lambda: 0.0))
    with JsonLog(tmp_path / "log.jsonl", every=2, every_s=1.0) as log:
        learner_of(log).fit(epochs=1, print_stats=False)
    lines = lines_of(tmp_path / "log.jsonl")
    assert [one["batch"] for one in lines if one["event"] == "batch_finished"] == [2, 2]


@pytest.mark.parametrize("every_s", [0, -1.0, math.inf, math.nan, True, "1s"])
def test_seconds_that_are_none_are_refused(tmp_path: Path, every_s: Any) -> None:
    with pytest.raises(ConfigError, match=r"every_s is .*; expected a number of seconds above 0, or None\."):
        JsonLog(tmp_path / "log.jsonl", every_s=every_s)


class Mixup(LogEvent, frozen=True):
    level: ClassVar[Level] = "debug"
    event: Literal["jsonlog.mixup"] = "jsonlog.mixup"
    alpha: float
    pairs: tuple[int, ...] = ()
    note: str | None = None


class Mixes(Subscriber[Batch]):
    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        return state.log(Mixup(alpha=math.inf)).log(Mixup(alpha=0.5, pairs=(1, 2), note="größer"))

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        if state.progress.phase == "eval":
            return state
        return CancelEpoch(reason="enough", state=state.log(Mixup(alpha=1.0))) if state.progress.batch == 2 else state


def test_a_subscribers_own_events_are_told_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        outcome = learner_of(log, subs=[Mixes()]).fit(1, print_stats=False)
    assert outcome.state.logged == ()
    mine = [line for line in lines_of(path) if line["event"] == "jsonlog.mixup"]
    assert [(line["phase"], line["alpha"], line.get("note")) for line in mine] == [
        ("train", None, None),
        ("train", 0.5, "größer"),
        ("train", 1.0, None),
        ("eval", None, None),
        ("eval", 0.5, "größer"),
    ]
    assert mine[0]["nonfinite"] == {"alpha": "inf"}
    events = [line.event for line in read(path) if isinstance(line.event, Mixup)]
    assert events == [
        *(both := [Mixup(alpha=math.inf), Mixup(alpha=0.5, pairs=(1, 2), note="größer")]),
        Mixup(alpha=1.0),
        *both,
    ]


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
    assert log.lost == 12
    assert outcome.sink_failures["JsonLog"] == 12
    assert outcome.state.progress.at == "finished"


def test_the_line_after_lost_ones_says_how_many_and_what_lies_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    count = 0
    write = os.write

    def flaky(file: int, content: bytes) -> int:
        nonlocal count
        count += 1
        if 3 <= count <= 6:
            raise OSError(28, "No space left on device")
        return write(file, content)

    with JsonLog(path) as log:
        learner = learner_of(log)
        monkeypatch.setattr(os, "write", flaky)
        with pytest.warns(SinkWarning):
            outcome = learner.fit(2, print_stats=False)
        monkeypatch.undo()
    lines = lines_of(path)
    assert [line["seq"] for line in lines] == [0, 1, 6, 7, 8, 9, 10, 11, 12]
    assert [line.get("lost_lines") for line in lines] == [None, None, 4, *[None] * 6]
    assert names(lines)[2:4] == ["epoch_started", "history_replaced"]
    assert log.lost == outcome.sink_failures["JsonLog"] == 4
    (run,) = replay(read(path))
    assert run.missing == 4
    assert run.history == outcome.state.history


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
        with JsonLog(path, run_id=str(uuid.UUID(int=number))) as log:
            learner_of(log).fit(5, seed=number, print_stats=False)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = lines_of(path)
    assert len(lines) == 4 * 24
    for number in range(4):
        assert [line["seq"] for line in lines if line["run_id"] == str(uuid.UUID(int=number))] == list(range(24))


def test_an_applications_structlog_is_left_alone_and_unheard(tmp_path: Path) -> None:
    heard = structlog.testing.LogCapture()
    structlog.configure(processors=[heard])
    try:
        with JsonLog(tmp_path / "run.jsonl") as log:
            learner_of(log).fit(1, print_stats=False)
    finally:
        structlog.reset_defaults()
    assert heard.entries == []
    assert len(lines_of(tmp_path / "run.jsonl")) == 8
