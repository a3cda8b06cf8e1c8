"""OpenTelemetry: what its SDK's exporter in memory gets, and that the page names exactly that."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from nntrain.errors import LogError
from nntrain.log import Line
from nntrain.log.events import OWN
from nntrain.log.export import OpenTelemetry, export
from nntrain.log.export.opentelemetry import attributes
from tests.log.export import hostile
from tests.log.samples import CONFIG, RUN, scripted

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "opentelemetry.md"


class Memory:
    """A provider of the SDK's that keeps what it gets."""

    def __init__(self) -> None:
        self.exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call] # the SDK has no type there
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(SimpleLogRecordProcessor(self.exporter))

    def emitted(self, lines: list[Line]) -> list[LogRecord]:
        export(lines, OpenTelemetry(self.provider))
        return [one.log_record for one in self.exporter.get_finished_logs()]


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.provider.shutdown()


def test_every_line_is_a_record(memory: Memory) -> None:
    lines = scripted(every=5, nan_at=10, ends="failed", text="no")
    records = memory.emitted(lines)
    assert [record.event_name for record in records] == [f"nntrain.{line.event.event}" for line in lines]
    for record, line in zip(records, lines, strict=True):
        assert record.timestamp is not None
        assert timedelta(microseconds=record.timestamp / 1000) == line.timestamp - line.timestamp.fromtimestamp(
            0, tz=line.timestamp.tzinfo
        )
        assert record.attributes is not None
        assert record.attributes["nntrain.seq"] == line.seq
        assert record.attributes["nntrain.run_id"] == f"{RUN}0"
        assert record.severity_text == line.level
    severities = {record.severity_text: record.severity_number for record in records}
    assert severities == {
        "debug": SeverityNumber.DEBUG,
        "info": SeverityNumber.INFO,
        "warning": SeverityNumber.WARN,
        "error": SeverityNumber.ERROR,
    }
    (scope,) = {one.instrumentation_scope for one in memory.exporter.get_finished_logs()}
    assert scope is not None
    assert scope.name == "nntrain"


def test_attributes_of_an_epoch_a_batch_and_a_failure(memory: Memory) -> None:
    records = memory.emitted(scripted(every=5, nan_at=10, ends="failed", text="no"))
    found = {record.event_name: dict(record.attributes or {}) for record in reversed(records)}
    epoch = found["nntrain.epoch_finished"]
    assert {name: epoch[f"nntrain.{name}"] for name in ("epoch", "phase", "step", "samples", "batches")} == {
        "epoch": 0,
        "phase": "train",
        "step": 20,
        "samples": 1280,
        "batches": 20,
    }
    assert isinstance(epoch["nntrain.metrics.metric"], float)
    second = [record for record in records if record.event_name == "nntrain.batch_finished"][1]
    loss = (second.attributes or {})["nntrain.loss"]
    assert isinstance(loss, float)
    assert math.isnan(loss)
    failed = found["nntrain.run_failed"]
    assert failed["exception.type"] == "RuntimeError"
    assert failed["exception.message"] == "no"
    assert str(failed["exception.stacktrace"]).startswith("Traceback")
    assert failed["nntrain.where"] == "batch, eval of epoch 2"
    started = found["nntrain.run_started"]
    assert started["nntrain.config.optimizer"] == CONFIG["optimizer"]
    assert started["nntrain.config.versions.torch"] == CONFIG["versions"]["torch"]
    assert started["nntrain.config.metrics"] == ("metric",)
    assert records[-1].body == "RuntimeError in batch, eval of epoch 2: no"


def test_somebody_elses_event_keeps_its_name_and_namespace(memory: Memory) -> None:
    records = memory.emitted(hostile.lines("a"))
    (record,) = [one for one in records if one.event_name == "hostile.mixup"]
    assert record.attributes is not None
    assert record.attributes["hostile.mixup.alpha"] == 0.5
    assert record.attributes["hostile.mixup.names"] == ("a",)
    (other,) = [one for one in records if one.event_name == "other.package"]
    assert (other.attributes or {})["other.package.whole"] is True


def test_what_every_line_has_survives_the_sdks_limit(memory: Memory) -> None:
    lines = scripted(config={f"option_{index}": index for index in range(200)})
    with pytest.warns(UserWarning, match="dropped"):
        first = memory.emitted(lines)[0]
    assert first.attributes is not None
    assert len(first.attributes) == 128
    assert first.attributes["nntrain.run_id"] == f"{RUN}0"
    assert first.attributes["nntrain.seq"] == 0


def named(line: Line) -> set[str]:
    """Give the names of a line's attributes; what the program names itself as a pattern."""
    found = set()
    for name, _ in attributes(line):
        for mapping in ("nntrain.metrics.", "nntrain.config."):
            if name.startswith(mapping):
                name = f"{mapping}*"  # noqa: PLW2901 - the pattern for the name
        found.add(name)
    return found


def test_the_page_names_exactly_what_is_emitted() -> None:
    every = hostile.lines("text") + scripted(every=5, epochs=1)
    every = [line.model_copy(update={"lost_lines": 1}) for line in every]
    assert {type(line.event) for line in every} >= set(OWN)
    emitted: dict[str, set[str]] = {}
    for line in every:
        if isinstance(line.event, OWN):
            for name in named(line):
                emitted.setdefault(name, set()).add(line.event.event)
    names = {line.event.event for line in every if isinstance(line.event, OWN)}
    rows = re.findall(r"^\| `([\w.*]+)` \| (\w[\w ]*(?:\[\])?) \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    told = {name: names if where.strip() == "every" else set(re.findall(r"`(\w+)`", where)) for name, _, where in rows}
    assert told == emitted
    types = {name: kind for name, kind, _ in rows}
    for line in every:
        for name, value in attributes(line):
            if isinstance(line.event, OWN) and not name.startswith("nntrain.config."):
                pattern = re.sub(r"^nntrain\.metrics\..*", "nntrain.metrics.*", name)
                expected = {"string": str, "int": int, "double": float, "boolean": bool}[types[pattern]]
                assert type(value) is expected, name


def test_the_provider_stays_open(memory: Memory) -> None:
    exporter = OpenTelemetry(memory.provider)
    exporter.close()
    exporter.close()
    with pytest.raises(LogError, match="closed"):
        exporter.write(scripted()[0])
    assert len(memory.emitted(scripted())) == len(scripted())


def test_without_a_provider_it_is_the_programs(monkeypatch: pytest.MonkeyPatch, memory: Memory) -> None:
    monkeypatch.setattr("opentelemetry._logs.get_logger_provider", lambda: memory.provider)
    export(scripted(), OpenTelemetry())
    assert memory.exporter.get_finished_logs()


@settings(max_examples=25)
@given(said=st.lists(hostile.texts, max_size=4), run_id=hostile.texts, extreme=st.booleans())
def test_hostile_text_can_be_sent(said: list[str], run_id: str, extreme: bool) -> None:
    memory = Memory()
    lines = hostile.lines(*said, run_id=run_id, extreme=extreme)
    assert len(memory.emitted(lines)) == len(lines)
    sent = encode_logs(memory.exporter.get_finished_logs()).SerializeToString()
    assert len(sent) < 40 * len(lines) * (1 << 16)
    memory.provider.shutdown()
