"""CSV and Parquet: read back with pyarrow, pandas, polars, DuckDB and the csv module."""

from __future__ import annotations

import csv
import math
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nntrain.errors import LogError
from nntrain.log import BatchFinished, EpochFinished
from nntrain.log.export import Csv, Parquet, export
from nntrain.values.record import FrozenMapping
from tests.log.export import hostile
from tests.log.samples import RUN, Script, scripted

RUNS = [*scripted(0, every=5, nan_at=10), *scripted(1, metrics=("acc", "top 5"), epochs=1)]
PLACE = ["run_id", "rank", "seq", "timestamp", "elapsed_s", "epoch", "phase", "batch", "step", "samples", "loss"]


def test_parquet_has_the_types_and_every_value(tmp_path: Path) -> None:
    export(RUNS, Parquet(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batches.parquet", "epochs.parquet"]
    epochs = pq.read_table(tmp_path / "epochs.parquet")
    metrics = ["metric.metric", "metric.acc", "metric.top 5"]
    assert epochs.column_names == [*PLACE, *metrics, "batches", "seconds", "data"]
    types = dict(zip(epochs.column_names, epochs.schema.types, strict=True))
    assert types["timestamp"] == pa.timestamp("us", tz="UTC")
    assert types["run_id"] == types["phase"] == pa.dictionary(pa.int32(), pa.string())
    assert {types[name] for name in ("rank", "seq", "epoch", "batch", "step", "samples", "batches")} == {pa.int64()}
    assert {types[name] for name in ("elapsed_s", "loss", "seconds", *metrics)} == {pa.float64()}
    lines = [line for line in RUNS if isinstance(line.event, EpochFinished)]
    rows = epochs.to_pylist()
    assert len(rows) == len(lines) == 8
    for row, line in zip(rows, lines, strict=True):
        assert isinstance(line.event, EpochFinished)
        values = {f"metric.{name}": line.event.metrics.get(name) for name in ("metric", "acc", "top 5")}
        values |= {name: getattr(line, name) for name in PLACE[:-1]}
        values |= {name: getattr(line.event, name) for name in ("loss", "batches", "seconds", "data")}
        assert row == values
    batches = pq.read_table(tmp_path / "batches.parquet")
    assert batches.column_names == [*PLACE, "metric.metric", "lr", "samples_per_s", "data"]
    found = {row["step"]: row for row in batches.to_pylist() if row["phase"] == "train"}
    assert math.isnan(found[10]["loss"])
    assert math.isnan(found[10]["metric.metric"])
    assert batches["loss"].null_count == 0, "a NaN is a value"
    assert {row["lr"] for row in batches.to_pylist() if row["phase"] == "eval"} == {None}


def test_csv_says_the_same_to_every_reader(tmp_path: Path) -> None:
    export(RUNS, Csv(tmp_path))
    path = tmp_path / "batches.csv"
    lines = [line for line in RUNS if isinstance(line.event, BatchFinished)]
    moments = [line.timestamp for line in lines]
    frame = pd.read_csv(path, parse_dates=["timestamp"])
    assert list(frame["timestamp"]) == moments
    assert frame["loss"].dtype == "float64"
    assert frame["step"].dtype == "int64"
    polars = pl.read_csv(path, try_parse_dates=True)
    assert polars["timestamp"].to_list() == moments
    assert polars["loss"].dtype == pl.Float64
    assert polars["loss"].is_nan().sum() == 1
    assert polars["lr"].null_count() == sum(line.phase == "eval" for line in lines)
    query = "select timestamp, loss, lr, step from read_csv(?)"
    rows = duckdb.execute(query, [str(path)]).fetchall()
    assert [(row[0].astimezone(UTC), row[3]) for row in rows] == [(line.timestamp, line.step) for line in lines]
    assert [math.isnan(row[1]) for row in rows] == [line.step == 10 and line.phase == "train" for line in lines]
    with path.open(newline="", encoding="utf-8") as file:
        texts = list(csv.DictReader(file))
    assert texts[0]["timestamp"] == "2026-01-01T12:00:00.050000Z"
    assert texts[1]["loss"] == "NaN"
    assert texts[0]["run_id"] == f"{RUN}0"


def test_infinities(tmp_path: Path) -> None:
    script = Script()
    script.say(EpochFinished(loss=math.inf, metrics=FrozenMapping({"a": -math.inf}), batches=1, seconds=1.0))
    export(script.lines, Csv(tmp_path))
    export(script.lines, Parquet(tmp_path))
    (row,) = csv.DictReader((tmp_path / "epochs.csv").read_text().splitlines())
    assert (row["loss"], row["metric.a"]) == ("inf", "-inf")
    (same,) = pq.read_table(tmp_path / "epochs.parquet").to_pylist()
    assert (same["loss"], same["metric.a"]) == (math.inf, -math.inf)


@pytest.mark.parametrize("run_id", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "'=1"])
def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path, run_id: str) -> None:
    export(hostile.lines("=1+1", "@x", run_id=run_id), Csv(tmp_path))
    export(hostile.lines("=1+1", "@x", run_id=run_id), Parquet(tmp_path))
    for name in ("epochs", "batches"):
        with (tmp_path / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in header)
        for row in rows:
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
                assert not cell.startswith("-") or float(cell) < 0
        kept = set(pq.read_table(tmp_path / f"{name}.parquet")["run_id"].to_pylist())
        assert kept == {run_id}


def test_nothing_logged_is_two_tables_without_rows(tmp_path: Path) -> None:
    export([], Csv(tmp_path / "a"))
    export([], Parquet(tmp_path / "a"))
    assert (tmp_path / "a" / "epochs.csv").read_text().count("\n") == 1
    table = pq.read_table(tmp_path / "a" / "batches.parquet")
    assert table.num_rows == 0
    assert table.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")


@pytest.mark.sweep
def test_many_batches_and_a_metric_that_comes_late(tmp_path: Path) -> None:
    line = next(line for line in scripted(every=5) if isinstance(line.event, BatchFinished))
    late = line.model_copy(update={"event": BatchFinished(loss=1.0, metrics=FrozenMapping({"late": 2.0}))})
    begin = time.perf_counter()
    with Parquet(tmp_path) as tables:
        for _ in range(120_000):
            tables.write(line)
        tables.write(late)
    assert time.perf_counter() - begin < 30
    table = pq.read_table(tmp_path / "batches.parquet")
    assert table.num_rows == 120_001
    assert table.column_names == [*PLACE, "metric.metric", "metric.late", "lr", "samples_per_s", "data"]
    assert table["metric.late"].null_count == 120_000
    assert pq.ParquetFile(tmp_path / "batches.parquet").num_row_groups == 2


def test_both_files_are_replaced_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(RUNS, Csv(tmp_path))
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    tables = Csv(tmp_path)
    written = tables._write

    def full(table: pa.Table, path: Path) -> None:
        if "batches" in path.name:
            raise OSError(28, "No space left on device")
        written(table, path)

    monkeypatch.setattr(tables, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        export([], tables)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    export([], Csv(tmp_path))
    assert (tmp_path / "epochs.csv").read_text().count("\n") == 1


def test_closed_is_closed(tmp_path: Path) -> None:
    tables = Csv(tmp_path)
    tables.close()
    tables.close()
    with pytest.raises(LogError, match="closed"):
        tables.write(RUNS[0])


@settings(max_examples=25)
@given(said=st.lists(hostile.texts, max_size=4), run_id=hostile.texts, extreme=st.booleans())
def test_hostile_text(tmp_path_factory: pytest.TempPathFactory, said: list[str], run_id: str, extreme: bool) -> None:
    folder = tmp_path_factory.mktemp("tables")
    lines = hostile.lines(*said, run_id=run_id, extreme=extreme)
    export(lines, Csv(folder))
    export(lines, Parquet(folder))
    for name in ("epochs", "batches"):
        table = pq.read_table(folder / f"{name}.parquet")
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert table.num_rows == 2
        assert len(rows) == 3
        assert rows[0] == table.column_names
        assert {len(row) for row in rows} == {len(table.column_names)}
        assert table["timestamp"].to_pylist()[0] >= datetime(2026, 1, 1, tzinfo=UTC)
