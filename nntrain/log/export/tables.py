"""Two tables, epochs and batches, as CSV or Parquet."""

from __future__ import annotations

import csv
import math
import os
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nntrain.errors import LogError
from nntrain.log.events import BatchFinished, EpochFinished
from nntrain.log.export.exporter import Exporter
from nntrain.log.export.text import INT64, safe
from nntrain.log.line import Line, format_timestamp

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK: Final = 50_000
"""The most rows that are kept as Python objects, before they become a pyarrow table."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_TYPES: Final = {
    "run_id": "text",
    "rank": "int",
    "seq": "int",
    "timestamp": "time",
    "elapsed_s": "float",
    "epoch": "int",
    "phase": "text",
    "batch": "int",
    "step": "int",
    "samples": "int",
    "loss": "float",
}
_LAST: Final = {
    "epochs": {"batches": "int", "seconds": "float", "data": "text"},
    "batches": {"lr": "float", "samples_per_s": "float", "data": "text"},
}


class Tables(Exporter):
    """Writes `epochs` and `batches` into a folder: a row for each event, a column for each field.

    The columns are `run_id`, `rank`, `seq`, `timestamp`, `elapsed_s`, `epoch`, `phase`, `batch`, `step`, `samples` and
    `loss`, then `metric.<name>` for every metric of any of the runs, then `batches` and `seconds` of epochs, or `lr`
    and `samples_per_s` of batches, and `data`, the name of the set that is evaluated, if it has one. A value that a row
    does not have is absent (null).

    Rows are kept in memory, in columns, until the end. Then both files are written under other names, and renamed: an
    old file is replaced completely or not at all.
    """

    ending: str
    """The extension of the files."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._tables = {name: _Table(last) for name, last in _LAST.items()}
        self._closed = False

    def write(self, line: Line, /) -> None:
        """Keep the row of an epoch's phase or a batch; other lines are ignored."""
        if self._closed:
            raise LogError(f"The tables in {self._folder} are closed.")
        if isinstance(line.event, EpochFinished):
            self._tables["epochs"].add(line, line.event)
        elif isinstance(line.event, BatchFinished):
            self._tables["batches"].add(line, line.event)

    def close(self) -> None:
        """Write both files."""
        if self._closed:
            return
        self._closed = True
        self._folder.mkdir(parents=True, exist_ok=True)
        paths = {name: self._folder / f"{name}.{self.ending}" for name in self._tables}
        beside = {name: path.with_name(f".{path.name}.{os.getpid()}") for name, path in paths.items()}
        try:
            for name, table in self._tables.items():
                self._write(table.all_rows(), beside[name])
            for name, path in paths.items():
                beside[name].replace(path)
        finally:
            for path in beside.values():
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    @abstractmethod
    def _write(self, table: pa.Table, path: Path) -> None:
        """Write a table to a new file."""


class Parquet(Tables):
    """Writes `epochs.parquet` and `batches.parquet`: `Tables`, with NaN and infinities as they are.

    Times are `timestamp[us, tz=UTC]`, counts int64, numbers float64; `run_id` and `phase` are dictionaries.
    """

    ending = "parquet"

    def _write(self, table: pa.Table, path: Path) -> None:
        import pyarrow.parquet as pq

        pq.write_table(table, path, compression="zstd", row_group_size=100_000)


class Csv(Tables):
    """Writes `epochs.csv` and `batches.csv`: `Tables`, with `NaN`, `inf` and `-inf`; an absent value is an empty cell.

    Times are RFC 3339 in UTC. A spreadsheet reads a cell that begins with `=`, `+`, `-` or `@` as a formula. Free text
    in a cell is only `run_id` and `data`: if it begins so, it gets an apostrophe before it. Names of metrics have the
    prefix `metric.`, and numbers are numbers.
    """

    ending = "csv"

    def _write(self, table: pa.Table, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table.column_names)
            for batch in table.to_batches(max_chunksize=10_000):
                columns = [map(_cell, column.to_pylist()) for column in batch.columns]
                writer.writerows(zip(*columns, strict=True))


def _cell(value: object) -> object:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, datetime):
        return format_timestamp(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


class _Table:
    """The rows of a table so far."""

    def __init__(self, last: Mapping[str, str]) -> None:
        self._last = last
        self._chunks: list[pa.Table] = []
        self._columns: dict[str, list[object]] = {}
        self._rows = 0
        self._new()

    def _new(self) -> None:
        self._rows = 0
        self._columns = {name: [] for name in (*_TYPES, *self._last)}

    def add(self, line: Line, event: EpochFinished | BatchFinished) -> None:
        """Add a row."""
        columns = self._columns
        for name in _TYPES:
            value = (None if event.has_loss is False else event.loss) if name == "loss" else getattr(line, name)
            columns[name].append(min(value, INT64) if isinstance(value, int) else value)
        for name in self._last:
            value = getattr(event, name)
            columns[name].append(min(value, INT64) if isinstance(value, int) else value)
        for name, value in event.metrics.items():
            column = columns.setdefault(f"metric.{safe(name, 1000)}", [])
            column.extend([None] * (self._rows - len(column)))
            if len(column) == self._rows:  # `safe` may make two names equal
                column.append(value)
        self._rows += 1
        if self._rows == _CHUNK:
            self._chunks.append(self._chunk())
            self._new()

    def _chunk(self) -> pa.Table:
        import pyarrow as pa

        words = pa.dictionary(pa.int32(), pa.string())
        types: dict[str, pa.DataType] = {
            "text": words,
            "int": pa.int64(),
            "float": pa.float64(),
            "time": pa.timestamp("us", tz="UTC"),
        }
        arrays = {}
        for name, column in self._columns.items():
            column.extend([None] * (self._rows - len(column)))
            kind = _TYPES.get(name) or self._last.get(name) or "float"
            if kind == "text":
                texts = [None if value is None else safe(str(value), 1000) for value in column]
                arrays[name] = pa.array(texts, pa.string()).dictionary_encode()
            else:
                arrays[name] = pa.array(column, types[kind], from_pandas=False)
        return pa.table(arrays)

    def all_rows(self) -> pa.Table:
        """Return all rows, with the columns in their order."""
        import pyarrow as pa

        table = pa.concat_tables([*self._chunks, self._chunk()], promote_options="default").unify_dictionaries()
        metrics = [name for name in table.column_names if name not in _TYPES and name not in self._last]
        return table.select([*_TYPES, *metrics, *self._last])
