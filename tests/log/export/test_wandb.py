"""Weights & Biases: read back from the .wandb files, and nothing goes over the network."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path

import pytest

from nntrain.errors import LogError
from nntrain.log import Line
from nntrain.log.export import WeightsAndBiases, export
from tests.log.export import hostile
from tests.log.export.wandb_records import Written
from tests.log.samples import RUN, scripted, written


@pytest.fixture(scope="module", autouse=True)
def service() -> Iterator[None]:
    """End W&B's own process with these tests."""
    yield
    import_module("wandb").teardown()  # it takes seconds to import, also for those who run other tests


def exported(folder: Path, lines: list[Line]) -> list[Written]:
    export(lines, WeightsAndBiases(folder))
    return sorted((whole(path) for path in folder.glob("wandb/offline-run-*/*.wandb")), key=lambda one: one.run_id)


def whole(path: Path) -> Written:
    """Read a file when it is whole: W&B's process ends it a few milliseconds after it has said so."""
    deadline = time.monotonic() + 20
    while (found := Written(path)).exit_code is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.mark.sweep
def test_a_run_with_its_config_history_and_summary(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = scripted(every=5, nan_at=10, ends="cancelled", text="enough")
    (run,) = exported(tmp_path, lines)
    assert capfd.readouterr() == ("", "")
    assert import_module("wandb").run is None
    assert run.offline
    assert run.run_id == f"{RUN}0"
    assert run.config["optimizer"] == "SGD"
    assert run.config["versions"]["torch"] == "2.11.0"
    assert run.config["nntrain"] == {"run_id": f"{RUN}0", "rank": 0}
    told = [line for line in lines if line.event.event in {"epoch_finished", "batch_finished"}]
    assert [row["_timestamp"] for row in run.history] == [line.timestamp.timestamp() for line in told]
    assert [row["epoch"] for row in run.history] == [line.epoch for line in told]
    epochs = [row for row in run.history if "loss/train" in row]
    assert [row["step"] for row in epochs] == [20, 40, 60]
    batches = [row for row in run.history if "train_batch/loss" in row]
    assert [row["step"] for row in batches] == list(range(5, 61, 5))
    assert [math.isnan(row["train_batch/loss"]) for row in batches] == [row["step"] == 10 for row in batches]
    assert [row["evaluated"] for row in run.history if "eval_batch/loss" in row] == [5, 10]
    assert run.axes["loss/eval"] == run.axes["train_batch/lr"] == "step"
    assert run.axes["eval_batch/loss"] == "evaluated"
    assert run.summary["outcome"] == "cancelled"
    assert run.summary["cancelled"] == ["EarlyStopping cancelled the fit at before_epoch: enough"]
    assert run.summary["warning"] == ["capture.device: enough"]
    assert run.exit_code == 0


@pytest.mark.sweep
def test_how_runs_end(tmp_path: Path) -> None:
    runs = exported(tmp_path, [*scripted(0), *scripted(1, ends="failed", text="no"), *scripted(2, ends="running")])
    assert [(run.exit_code, run.summary["outcome"]) for run in runs] == [
        (0, "completed"),
        (1, "failed"),
        (255, "unknown"),
    ]
    assert runs[1].summary["error"] == ["RuntimeError in batch, eval of epoch 2: no"]


@pytest.mark.sweep
def test_hostile_text(tmp_path: Path) -> None:
    lines = hostile.lines(*hostile.TEXTS, extreme=True, run_id="../\0?")
    for number, text in enumerate(hostile.TEXTS[:-1:4]):
        lines += hostile.lines(text, run_id=f"{number}{text}")
    runs = exported(tmp_path / "runs", lines)
    assert len(runs) == 5
    assert all(len([row for row in run.history if "loss/train" in row]) == 1 for run in runs)
    (most,) = (run for run in runs if run.run_id.startswith("run-"))
    (row,) = (row for row in most.history if "loss/train" in row)
    assert len([name for name in row if name.endswith("/train")]) == 2 + len(hostile.TEXTS) + 2, row
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_folder_that_cannot_be_written_and_a_closed_exporter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        WeightsAndBiases(tmp_path / "file")
    exporter = WeightsAndBiases(tmp_path)
    exporter.close()
    exporter.close()
    with pytest.raises(LogError, match="closed"):
        exporter.write(scripted()[0])


PROGRAM = """
import sys
from nntrain.log import read
from nntrain.log.export import MLflow, WeightsAndBiases, export
for exporter in (WeightsAndBiases("w"), MLflow("m")):
    export(read("run.jsonl"), exporter)
"""


@pytest.mark.sweep
def test_nothing_goes_over_the_network(tmp_path: Path) -> None:
    """A proxy would see it, as both would use one; what tells them that this is a test is taken away."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode())

    server = HTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tests = ("PYTEST", "CI", "GITHUB", "WANDB", "MLFLOW", "DO_NOT_TRACK", "NO_PROXY", "no_proxy")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(tests)}
    proxy = f"http://127.0.0.1:{server.server_port}"
    environment |= {
        name: proxy for one in ("http", "https", "all") for name in (f"{one}_proxy", f"{one.upper()}_PROXY")
    }
    written(tmp_path / "run.jsonl", scripted(every=5))
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert asked == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "run.jsonl", "w"]
    (path,) = tmp_path.glob("w/wandb/offline-run-*/*.wandb")
    assert Written(path).exit_code == 0, "whole when the program has ended"
