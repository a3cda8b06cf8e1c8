"""Real readers read the log: DuckDB, polars, pandas, jq, with the right type in each column.

The log has 100,000 batches, NaN and infinite losses, events of a subscriber's own, and text that is not ASCII.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import CancelFit, DataLoaders, Learner, Subscriber, TrainState, Transition
from nntrain.log import JsonLog, LogEvent, read, replay
from nntrain.sinks.transition import BatchRan, RunInfo
from nntrain.values.history import History
from tests.log.validating import validator

pytestmark = pytest.mark.sweep

Batch = tuple[Tensor, Tensor]
BATCHES: Final = 100_000
REASON: Final = 'größer\n"quoted"\t\x1b[31m\u2028漢字 🙂'


class Mixed(LogEvent, frozen=True):
    """An event of a test's own."""

    event: Literal["readers.mixed"] = "readers.mixed"
    alpha: float
    text: str


class Mixes(Subscriber[Batch]):
    """Logs one at the beginning, and cancels at the end."""

    def before_fit(self, state: TrainState) -> TrainState:
        return state.log(Mixed(alpha=math.inf, text=REASON)).log(Mixed(alpha=0.5, text=REASON))

    def after_fit(self, state: TrainState) -> CancelFit:
        return CancelFit(reason=REASON)


class Written(NamedTuple):
    """A log, and what is in it."""

    path: Path
    losses: list[float]
    written: list[float | None]
    history: History


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Write a log by a training; most of its batches are handed to it as the machine hands them."""
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    values = (1.0, math.nan, 0.1 + 0.2, math.inf, -math.inf, 1e-12, 3.0)
    losses = [values[number % len(values)] for number in range(BATCHES)]
    batch = (torch.ones(2, 1), torch.zeros(2, 1))
    with JsonLog(path, every="all") as sink:

        def feed(transition: Transition) -> None:
            if transition.at == "before_epoch" and transition.progress.phase == "train":
                hand_over(sink, transition.run, losses, transition.progress.epoch)

        learner = Learner(
            nn.Linear(1, 1), DataLoaders([batch] * 3, [batch]), mse_loss, mse_loss, torch.optim.SGD, 0.1, [Mixes()]
        ).replace(sinks=[sink, feed])
        history = learner.fit(2, print_stats=False).state.history
    lines = map(json.loads, path.open(encoding="utf-8"))
    written = [line["loss"] for line in lines if line["event"] == "batch_finished"]
    return Written(path, losses, written, history)


def hand_over(sink: JsonLog, run: RunInfo, losses: list[float], epoch: int) -> None:
    """Hand half of the batches over, in groups."""
    half = losses[BATCHES // 2 :] if epoch else losses[: BATCHES // 2]
    for first in range(0, len(half), 64):
        group = [
            BatchRan(epoch, "train", 0, 3 * epoch, 0, loss, {"metric": torch.tensor(0.5)}, time.monotonic())
            for loss in half[first : first + 64]
        ]
        sink.batches(run, group)


def duckdb_losses(path: Path) -> tuple[str, list[float | None]]:
    import duckdb

    query = "select typeof(loss), loss from read_json_auto(?) where event = 'batch_finished' order by seq"
    rows = duckdb.execute(query, [str(path)]).fetchall()
    return rows[0][0], [loss for _, loss in rows]


def polars_losses(path: Path) -> tuple[str, list[float | None]]:
    import polars

    frame = polars.scan_ndjson(path).filter(polars.col("event") == "batch_finished").collect()
    return str(frame.schema["loss"]), frame["loss"].to_list()


def pandas_losses(path: Path) -> tuple[str, list[float | None]]:
    import pandas as pd

    frame = pd.read_json(path, lines=True, precise_float=True)  # without it, the last bit of some is wrong
    losses = frame[frame["event"] == "batch_finished"]["loss"]
    return str(losses.dtype), [None if math.isnan(loss) else loss for loss in losses]


def jq_losses(path: Path) -> tuple[str, list[float | None]]:
    jq = shutil.which("jq")
    if jq is None:
        pytest.skip("jq is not installed")
    filtered = 'select(.event == "batch_finished") | .loss'
    found = subprocess.run([jq, "-c", filtered, path], capture_output=True, text=True, check=True)
    kinds = subprocess.run(
        [jq, "-r", "-s", f'map({filtered} | type) | unique | join(" or ")', path],
        capture_output=True,
        text=True,
        check=True,
    )
    return kinds.stdout.strip(), [json.loads(loss) for loss in found.stdout.splitlines()]


READERS: Final[dict[str, tuple[Callable[[Path], tuple[str, list[float | None]]], str]]] = {
    "duckdb": (duckdb_losses, "DOUBLE"),
    "polars": (polars_losses, "Float64"),
    "pandas": (pandas_losses, "float64"),
    "jq": (jq_losses, "null or number"),
}


@pytest.mark.parametrize("reader", READERS)
def test_the_loss_is_a_column_of_numbers(log: Written, reader: str) -> None:
    losses_of, expected = READERS[reader]
    kind, losses = losses_of(log.path)
    assert kind == expected
    ours = log.written
    same = losses == ours
    assert same  # a diff of 100,000 numbers takes minutes
    told = [loss if math.isfinite(loss) else None for loss in log.losses]
    assert (ours[: BATCHES // 2] == told[: BATCHES // 2]) is True


def test_duckdb_finds_types_for_every_column(log: Written) -> None:
    import duckdb

    rows = duckdb.execute("describe select * from read_json_auto(?, sample_size = -1)", [str(log.path)]).fetchall()
    types: dict[str, str] = {row[0]: row[1] for row in rows}
    assert types["timestamp"].startswith("TIMESTAMP")
    assert {types[name] for name in ("seq", "epoch", "batch", "step", "samples", "batches")} == {"BIGINT"}
    assert {types[name] for name in ("loss", "lr", "elapsed_s", "seconds", "samples_per_s", "alpha")} == {"DOUBLE"}
    reason: Any = duckdb.execute(
        "select reason from read_json_auto(?, sample_size = -1) where event = 'cancelled'", [str(log.path)]
    ).fetchone()
    assert reason == (REASON,)


def test_polars_and_pandas_read_text_and_metrics(log: Written) -> None:
    import pandas as pd
    import polars

    frame = polars.read_ndjson(log.path, infer_schema_length=None)
    assert frame.filter(polars.col("event") == "cancelled")["reason"].to_list() == [REASON]
    metrics = frame.filter(polars.col("event") == "batch_finished")["metrics"].struct.field("metric")
    assert metrics.dtype == polars.Float64
    table = pd.read_json(log.path, lines=True)
    assert table[table["event"] == "cancelled"]["reason"].to_list() == [REASON]
    assert table[table["event"] == "readers.mixed"]["text"].to_list() == [REASON] * 2
    assert str(table["timestamp"].dtype).startswith("datetime64")


def test_jq_takes_every_line(log: Written) -> None:
    jq = shutil.which("jq")
    if jq is None:
        pytest.skip("jq is not installed")
    found = subprocess.run([jq, "-e", ".seq >= 0", log.path], capture_output=True, text=True, check=True)
    assert set(found.stdout.splitlines()) == {"true"}


def test_jsonschema_takes_the_lines(log: Written) -> None:
    """Every line but those of batches, and every hundredth of these: it takes a millisecond for each."""
    schema = json.loads((Path(__file__).parents[2] / "docs/reference/event.schema.json").read_text(encoding="utf-8"))
    valid = validator(schema)
    lines = log.path.read_text(encoding="utf-8").split("\n")[:-1]
    held = [json.loads(line) for number, line in enumerate(lines) if number % 100 == 0 or "batch_finished" not in line]
    assert len(held) > BATCHES // 100
    assert [line for line in held if not valid.is_valid(line)] == []


def test_our_own_reader_reads_it(log: Written) -> None:
    (run,) = replay(read(log.path))
    assert run.history == log.history
    assert run.outcome == "cancelled"
    assert run.missing == 0
