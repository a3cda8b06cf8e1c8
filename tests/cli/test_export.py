"""`nntrain log export` as a person runs it."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nntrain.cli import main
from nntrain.cli.reading import EXIT_CODES
from tests.log.samples import RUN, scripted, written


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "run.jsonl", scripted(0, every=5))
    written(tmp_path / "other.jsonl", scripted(1, ends="failed", text="<b>\x1b[31m"))
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nntrain", "log", "export", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


LEFT = {
    "tensorboard": [f"{RUN}0", f"{RUN}1"],
    "csv": ["batches.csv", "epochs.csv"],
    "parquet": ["batches.parquet", "epochs.parquet"],
    "mlflow": ["mlflow.db"],
    "wandb": ["wandb"],
}


@pytest.mark.sweep
@pytest.mark.parametrize("to", LEFT)
def test_two_logs_into_each_format(
    to: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run.jsonl", "other.jsonl", "--to", to, "-o", "a/b") == 0
    count = sum(len((folder / name).read_text().splitlines()) for name in ("run.jsonl", "other.jsonl"))
    out, err = capfd.readouterr()
    assert (out, err) == (f"{count} lines of 2 runs exported to a/b\n", "")
    assert sorted(path.name for path in (folder / "a" / "b").iterdir()) == LEFT[to]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "other.jsonl", "run.jsonl"]


def test_what_is_in_the_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "run.jsonl", "other.jsonl", "--to", "csv", "--out", "tables") == 0
    assert call(monkeypatch, "run.jsonl", "other.jsonl", "--to", "parquet", "--out", "tables") == 0
    with (folder / "tables" / "epochs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run_id"][-1] for row in rows] == ["0"] * 6 + ["1"] * 5
    assert pq.read_table(folder / "tables" / "epochs.parquet")["step"].to_pylist() == [int(row["step"]) for row in rows]


def test_a_torn_last_line_is_skipped_and_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / "run.jsonl").open("a") as file:
        file.write('{"event":"epoch_fin')
    assert call(monkeypatch, "run.jsonl", "--to", "csv", "-o", "tables") == 0
    out, err = capsys.readouterr()
    assert out.endswith(" lines of 1 run exported to tables\n")
    assert "torn" in err
    assert err.count("\n") == 1


BAD = {
    "none": (["none.jsonl", "--to", "csv", "-o", "out"], EXIT_CODES["unreadable"], "none.jsonl"),
    "no log": (["text.txt", "--to", "csv", "-o", "out"], EXIT_CODES["foreign"], "text.txt, line 1"),
    "second": (["run.jsonl", "text.txt", "--to", "mlflow", "-o", "out"], EXIT_CODES["foreign"], "text.txt, line 1"),
    "format": (["run.jsonl", "--to", "excel", "-o", "out"], 2, "'excel' is not one of 'tensorboard', 'csv', 'parquet'"),
    "no format": (["run.jsonl", "-o", "out"], 2, "--to"),
    "no out": (["run.jsonl", "--to", "csv"], 2, "--out"),
    "no file": (["--to", "csv", "-o", "out"], 2, "FILE"),
    "a file": (["run.jsonl", "--to", "csv", "-o", "text.txt"], 2, "'text.txt' is a file"),
    "under a file": (["run.jsonl", "--to", "tensorboard", "-o", "text.txt/out"], 10, "text.txt/out cannot be written"),
    "no address": (["run.jsonl", "--to", "mlflow", "-o", "what?"], 2, "may have no '?' in it"),
}


@pytest.mark.parametrize(("arguments", "code", "said"), BAD.values(), ids=BAD)
def test_bad_input_leaves_nothing_behind(
    arguments: list[str],
    code: int,
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "text.txt").write_text("no log\n")
    before = sorted(path.name for path in folder.iterdir())
    assert call(monkeypatch, *arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("to", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_extra_is_one_line_and_2(
    to: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".", maxsplit=1)[0])

    monkeypatch.setattr("nntrain.errors.import_module", missing)
    assert call(monkeypatch, "run.jsonl", "--to", to, "-o", "out") == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert f"pip install 'nntrain[{to}]'" in err
    assert not (folder / "out").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "locked").mkdir(mode=0o500)
    assert call(monkeypatch, "run.jsonl", "--to", "csv", "-o", "locked") == 2
    assert "locked cannot be written: Permission denied" in capsys.readouterr().err
    shutil.rmtree(folder / "locked")


def test_the_help_says_what_the_folder_gets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "mlflow.db" in said
    assert "wandb/offline-run-..." in said
