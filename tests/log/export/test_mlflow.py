"""MLflow: read back with its client, from its database."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nntrain.errors import ConfigError, LogError
from nntrain.log import BatchFinished, Line
from nntrain.log.export import MLflow, export
from tests.log.export import hostile
from tests.log.samples import RUN, scripted

if TYPE_CHECKING:  # it takes seconds to import, also for those who run other tests
    from mlflow import MlflowClient
    from mlflow.entities import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all: making its tables takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


def exported(folder: Path, lines: list[Line], experiment: str) -> list[Run]:
    export(lines, MLflow(folder, experiment=experiment))
    client = reader(folder)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return sorted(client.search_runs([found.experiment_id]), key=lambda run: str(run.data.tags["nntrain.run_id"]))


def reader(folder: Path) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.mark.sweep
def test_a_run_with_its_parameters_metrics_and_tags(folder: Path) -> None:
    lines = scripted(every=5, nan_at=10)
    (run,) = exported(folder, lines, "whole")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{RUN}0"
    assert run.info.start_time == round(lines[0].timestamp.timestamp() * 1000)
    assert run.info.end_time == int(lines[-1].timestamp.timestamp() * 1000)
    params = run.data.params
    assert params["optimizer"] == "SGD"
    assert params["lr"] == "0.1"
    assert params["metrics"] == "metric"
    assert params["versions.torch"] == "2.11.0"
    tags = run.data.tags
    assert {name: tags[f"nntrain.{name}"] for name in ("run_id", "rank", "outcome", "version.torch")} == {
        "run_id": f"{RUN}0",
        "rank": "0",
        "outcome": "completed",
        "version.torch": "2.11.0",
    }
    client = reader(folder)
    epochs = client.get_metric_history(run.info.run_id, "loss/train")
    finished = [line for line in lines if line.event.event == "epoch_finished" and line.phase == "train"]
    assert [(one.step, one.timestamp) for one in epochs] == [
        (line.step, int(line.timestamp.timestamp() * 1000)) for line in finished
    ]
    batches = client.get_metric_history(run.info.run_id, "train_batch/loss")
    assert [one.step for one in batches] == list(range(5, 61, 5))
    assert [math.isnan(one.value) for one in batches] == [one.step == 10 for one in batches]


@pytest.mark.sweep
def test_how_runs_end(folder: Path) -> None:
    ctrl_c = scripted(4, ends="failed")
    error = ctrl_c[-1].event.model_copy(update={"error_type": "KeyboardInterrupt"})
    ctrl_c[-1] = ctrl_c[-1].model_copy(update={"event": error})
    runs = exported(
        folder,
        [
            *scripted(0),
            *scripted(1, ends="cancelled"),
            *scripted(2, ends="failed", text="no"),
            *scripted(3, ends="running"),
            *ctrl_c,
        ],
        "endings",
    )
    assert [(run.info.status, run.data.tags["nntrain.outcome"]) for run in runs] == [
        ("FINISHED", "completed"),
        ("FINISHED", "cancelled"),
        ("FAILED", "failed"),
        ("KILLED", "unknown"),
        ("KILLED", "interrupted"),
    ]
    assert runs[2].data.tags["nntrain.error"] == "RuntimeError in batch, eval of epoch 2: no"


@pytest.mark.sweep
def test_the_same_log_again_and_a_run_that_goes_on(folder: Path) -> None:
    lines = scripted(every=5, epochs=2)
    half = next(index for index, line in enumerate(lines) if line.epoch == 1)
    (run,) = exported(folder, lines[:half], "again")
    assert run.info.status == "KILLED"
    for _ in range(2):
        (run,) = exported(folder, lines, "again")
    assert run.info.status == "FINISHED"
    history = reader(folder).get_metric_history(run.info.run_id, "train_batch/loss")
    assert [one.step for one in history] == list(range(5, 41, 5))


@pytest.mark.sweep
def test_many_batches_go_in_groups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    from mlflow import MlflowClient

    log_batch = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: list[object] = [], **more: object) -> object:  # noqa: B006
        sizes.append(len(metrics))
        return log_batch(self, run_id, metrics=metrics, **more)  # type: ignore[arg-type] # passed on as it came

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    line = next(line for line in scripted(every=5) if isinstance(line.event, BatchFinished))
    lines = [line.model_copy(update={"step": step, "seq": step}) for step in range(1100)]
    (run,) = exported(folder, lines, "many")
    assert max(sizes) == 1000
    assert len([size for size in sizes if size]) < 10
    assert len(reader(folder).get_metric_history(run.info.run_id, "train_batch/loss")) == 1100


@pytest.mark.sweep
def test_hostile_text(folder: Path) -> None:
    lines = hostile.lines(*hostile.TEXTS, extreme=True)
    for number, text in enumerate(hostile.TEXTS):
        lines += hostile.lines(text, run_id=f"{number}{text}")
    runs = exported(folder, lines, "hostile")
    assert len(runs) == 1 + len(hostile.TEXTS)
    for run in runs:
        assert len([name for name in run.data.metrics if name.endswith("/eval")]) >= 5
        assert max(len(value) for value in run.data.params.values()) <= 6000
        assert "\0" not in "".join(run.data.params.values())
    assert not (folder.parent / "etc").exists()
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


@pytest.mark.sweep
def test_nothing_is_said_and_closed_is_closed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exporter = MLflow(folder, experiment="quiet")
    exporter.write(scripted()[0])
    exporter.close()
    exporter.close()
    with pytest.raises(LogError, match="closed"):
        exporter.write(scripted()[0])
    assert capfd.readouterr() == ("", "")


def test_a_parameter_keeps_its_first_value(folder: Path) -> None:
    exported(folder, scripted(config={"note": "first"}), "params")
    (run,) = exported(folder, scripted(config={"note": "second"}), "params")
    assert run.data.params["note"] == "first"


def test_what_mlflow_refuses_is_an_os_error(folder: Path) -> None:
    exporter = MLflow(folder, experiment="refused")
    exporter.write(scripted()[0])
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("alter table metrics rename to elsewhere")
    try:
        with pytest.raises(LogError, match="MLflow refused"):
            export(scripted(), exporter)
    finally:
        with sqlite3.connect(folder / "mlflow.db") as database:
            database.execute("alter table elsewhere rename to metrics")


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"may have no '\?'"):
        MLflow(tmp_path / "what?")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        MLflow(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
