"""Where lines go: standard streams, several sinks at once, and an application's own structlog, as it has set it up."""

from __future__ import annotations

import gzip
import io
import json
import logging
import logging.config
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import pytest
import structlog
from structlog.testing import LogCapture, capture_logs

from nntrain.errors import ConfigError, LogError, SinkWarning
from nntrain.log import BatchFinished, JsonLog, Line, LogEvent, LoggerTarget, Target, WarningEvent, read
from nntrain.log.events import OWN
from nntrain.values.log_event import Level
from nntrain.values.record import FrozenMapping
from tests.log.test_hostile_text import line_of, long_of
from tests.log.trained import END, EPOCH, FIT, Pads, counts, learner_of, lines_of, names, strictly

ROOT: Final = Path(__file__).parents[2]
LEVELS: Final[tuple[Level, ...]] = ("debug", "info", "warning", "error")


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Leave structlog and logging as they were found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


class Told(LogEvent, frozen=True):
    """An event at a level of its own."""

    level: ClassVar[Level] = "error"
    event: Literal["tests.told"] = "tests.told"
    name_of: str = "x"


def as_captured(line: Mapping[str, Any]) -> dict[str, Any]:
    """Give a line as structlog's own `LogCapture` has it."""
    return {"log_level" if name == "level" else name: value for name, value in line.items()}


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_standard_stream_gets_the_lines_in_the_order_of_what_is_printed(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    stream = getattr(sys, name)
    print("before", file=stream)
    with JsonLog(stream) as log:
        learner_of(log).fit(1, print_stats=False)
    print("after", file=stream)
    assert not stream.closed
    out, err = capfd.readouterr()
    said, other = (out, err) if name == "stdout" else (err, out)
    first, *lines, last = said.splitlines()
    assert (first, last, other) == ("before", "after", "")
    assert names(map(json.loads, lines)) == [*FIT, *EPOCH * 2, *END]


def test_what_a_stream_holds_back_comes_before_the_lines(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w", encoding="utf-8") as stream:
        stream.write("before\n")
        with JsonLog(stream) as log:
            learner_of(log).fit(1, print_stats=False)
        stream.write("after\n")
    first, *lines, last = (tmp_path / "said").read_text().splitlines()
    assert (first, len(lines), last) == ("before", 8, "after")


def test_a_stream_in_memory_gets_the_lines() -> None:
    stream = io.StringIO()
    with JsonLog(stream, every="all") as log:
        learner_of(log).fit(1, print_stats=False)
    assert len(strictly(stream.getvalue().encode())) == 13


def test_a_stream_that_changes_what_is_written_to_it_does_so(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "run.jsonl.gz", "wt", encoding="utf-8") as stream, JsonLog(stream) as log:
        learner_of(log, subs=[Pads(10)]).fit(1, print_stats=False)
    assert len(strictly(gzip.decompress((tmp_path / "run.jsonl.gz").read_bytes()))) == 10


def test_a_stream_of_another_encoding_gets_utf_8(tmp_path: Path) -> None:
    """Lines are UTF-8, whatever the terminal's locale says."""
    path = tmp_path / "run.jsonl"
    with path.open("w", encoding="ascii") as stream, JsonLog(stream) as log:
        outcome = learner_of(log, subs=[Pads(10)]).fit(1, print_stats=False)
    assert outcome.sink_failures == {}
    assert [line["text"] for line in lines_of(path) if line["event"] == "tests.padding"] == ["ä" * 5] * 2


# -- several at once --------------------------------------------------------------------------------------------------


def test_many_targets_of_one_log_get_the_same_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    heard = LogCapture()
    logger = structlog.wrap_logger(None, processors=[heard], wrapper_class=structlog.BoundLogger)
    with JsonLog(sys.stdout, paths[0], sys.stderr, str(paths[1]), logger, every=2) as log:
        learner_of(log).fit(1, print_stats=False)
        assert log.path == paths[0]
    out, err = capfd.readouterr()
    assert paths[0].read_text() == paths[1].read_text() == out == err
    lines = lines_of(paths[0])
    assert counts(lines) == list(range(10))
    assert heard.entries == list(map(as_captured, lines))


def test_many_logs_of_one_training_have_runs_of_their_own(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    with JsonLog(paths[0]) as one, JsonLog(paths[1], every="all") as two:
        learner_of(one, two).fit(2, print_stats=False)
    short, long = (lines_of(path) for path in paths)
    assert short[0]["run_id"] != long[0]["run_id"]
    for lines in (short, long):
        assert counts(lines) == list(range(len(lines)))
    assert names(short) == [name for name in names(long) if name != "batch_finished"]
    assert len(long) - len(short) == 10


class Fails(Target):
    """Takes every line but the fifth."""

    def __init__(self) -> None:
        self.asked = 0
        self.lines: list[Line] = []

    def write(self, line: Line, /) -> None:
        self.asked += 1
        if self.asked == 5:
            raise RuntimeError("no more")
        self.lines.append(line)


def test_a_target_that_fails_costs_its_own_lines_and_no_other_targets(tmp_path: Path) -> None:
    path, fails = tmp_path / "run.jsonl", Fails()
    with JsonLog(fails, path) as log, pytest.warns(SinkWarning, match="Fails cannot be written .no more.") as warned:
        outcome = learner_of(log).fit(2, print_stats=False)
    assert len(warned) == 1
    assert outcome.sink_failures["JsonLog"] == log.lost == 1
    assert [line.lost_lines for line in fails.lines if line.lost_lines] == [1]
    assert [line.seq for line in read(path)] == list(range(13)), "what lies behind is said again to all"
    assert not [line for line in read(path) if line.lost_lines]


def test_what_is_no_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"structlog\.stdlib\.get_logger"):
        JsonLog(logging.getLogger("acme"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # refused
    with pytest.raises(ConfigError, match="A log cannot go to 3"):
        JsonLog(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # refused
    with pytest.raises(LogError, match="cannot be written"):
        JsonLog("/nowhere/run.jsonl")


# -- an application's structlog ---------------------------------------------------------------------------------------


def test_an_applications_logger_sees_the_events_as_its_own(tmp_path: Path) -> None:
    """`structlog.testing.capture_logs` catches them, as it catches the application's."""
    logger = structlog.get_logger("acme").bind(request="7")
    with capture_logs() as heard, JsonLog(logger, tmp_path / "run.jsonl", every="all") as log:
        logger.info("mine")
        learner_of(log).fit(1, print_stats=False)
    lines = lines_of(tmp_path / "run.jsonl")
    mine, *theirs = heard
    assert mine == {"event": "mine", "request": "7", "log_level": "info"}
    assert theirs == [{"request": "7", **as_captured(line)} for line in lines]
    assert {one["log_level"] for one in theirs} == {"debug", "info"}


def test_what_is_bound_to_the_context_is_in_the_events() -> None:
    out = io.StringIO()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.LogfmtRenderer(key_order=["level", "event", "job"], bool_as_flag=False),
        ],
        logger_factory=structlog.PrintLoggerFactory(out),
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        cache_logger_on_first_use=False,
    )
    with structlog.contextvars.bound_contextvars(job="nightly"), JsonLog(structlog.get_logger()) as log:
        learner_of(log).fit(1, print_stats=False)
    lines = out.getvalue().splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["level=info", f"event={name}", "job=nightly"] for name in [*FIT, *EPOCH * 2, *END]
    ]


@pytest.mark.parametrize(("level", "dropped"), [(logging.DEBUG, 0), (logging.INFO, 5), (logging.WARNING, 13)])
def test_an_application_filters_by_level(level: int, dropped: int) -> None:
    heard = LogCapture()
    wrapper = structlog.make_filtering_bound_logger(level)
    logger = structlog.wrap_logger(None, processors=[heard], wrapper_class=wrapper)
    with JsonLog(logger, every="all") as log:
        outcome = learner_of(log).fit(1, print_stats=False)
    assert len(heard.entries) == 13 - dropped
    assert outcome.sink_failures == {}
    assert log.lost == 0, "what is filtered is not lost"
    if level > logging.DEBUG:
        assert "batch_finished" not in names(heard.entries)


def test_each_event_is_logged_at_its_own_level() -> None:
    heard = LogCapture()
    target = LoggerTarget(structlog.wrap_logger(None, processors=[heard], wrapper_class=structlog.BoundLogger))
    events: dict[Level, LogEvent] = {
        "debug": BatchFinished.model_construct(loss=1.0, metrics=FrozenMapping()),
        "info": long_of(OWN[2], []),
        "warning": WarningEvent(code="a", text="b"),
        "error": Told(),
    }
    for event in events.values():
        target.write(line_of(event))
    assert [entry["log_level"] for entry in heard.entries] == list(events) == list(LEVELS)


def dict_config(formatter: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"own": formatter},
        "handlers": {"kept": {"class": "tests.log.test_targets.Kept", "formatter": "own"}},
        "loggers": {"acme": {"handlers": ["kept"], "level": "DEBUG", "propagate": False}},
    }


class Kept(logging.Handler):
    """Keeps what is logged."""

    texts: ClassVar[list[str]] = []
    records: ClassVar[list[logging.LogRecord]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))
        self.records.append(record)


@pytest.fixture
def kept() -> type[Kept]:
    Kept.texts.clear()
    Kept.records.clear()
    return Kept


def every_event() -> list[LogEvent]:
    """Give one of each of nntrain's events."""
    return [long_of(kind, []) for kind in OWN]


def test_the_standard_librarys_logging_formats_the_events_through_structlog(kept: type[Kept]) -> None:
    """`dictConfig` with `ProcessorFormatter`, as structlog's documentation has it: one format for all."""
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name]
    logging.config.dictConfig(
        dict_config(
            {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.JSONRenderer(sort_keys=True),
                ],
                "foreign_pre_chain": shared,
            }
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    before = structlog.get_config()
    logging.getLogger("acme").warning("of the standard library's")
    with JsonLog(structlog.stdlib.get_logger("acme"), every="all") as log:
        outcome = learner_of(log).fit(1, print_stats=False)
    assert outcome.sink_failures == {}
    assert structlog.get_config() == before
    theirs, *ours = (json.loads(text) for text in kept.texts)
    assert theirs == {"event": "of the standard library's", "level": "warning", "logger": "acme"}
    batches, ends = ["batch_finished"], [line["event"] for line in ours]
    assert ends == [*FIT, "epoch_started", *batches * 3, *EPOCH[1:], "epoch_started", *batches * 2, *EPOCH[1:], *END]
    assert {line["logger"] for line in ours} == {"acme"}
    assert counts(ours) == list(range(13))
    assert [record.levelname for record in kept.records[1:4]] == ["INFO", "INFO", "INFO"]
    assert kept.records[4].levelname == "DEBUG"
    logging.getLogger("acme").setLevel("INFO")
    kept.texts.clear()
    with JsonLog(structlog.stdlib.get_logger("acme"), every="all") as log:
        learner_of(log).fit(1, print_stats=False)
    assert [json.loads(text)["event"] for text in kept.texts] == [*FIT, *EPOCH * 2, *END]


@pytest.mark.parametrize(
    "render", [structlog.stdlib.render_to_log_kwargs, structlog.stdlib.render_to_log_args_and_kwargs]
)
def test_no_event_has_a_field_that_a_record_of_logging_has_already(kept: type[Kept], render: Any) -> None:
    """The fields go to `extra`, where a name like `message` or `module` would be refused."""
    logging.config.dictConfig(dict_config({"format": "%(levelname)s %(message)s %(run_id)s %(seq)s %(rank)s"}))
    logger = structlog.wrap_logger(
        logging.getLogger("acme"), processors=[render], wrapper_class=structlog.stdlib.BoundLogger
    )
    target = LoggerTarget(logger)
    events = every_event()
    for event in events:
        target.write(line_of(event))
    assert [text.split()[:2] for text in kept.texts] == [[event.level.upper(), event.event] for event in events]
    for record, event in zip(kept.records, events, strict=True):
        fields = line_of(event).fields()
        assert {name: record.__dict__[name] for name in fields if name not in {"event", "level"}} == {
            name: value for name, value in fields.items() if name not in {"event", "level"}
        }


def test_a_line_that_the_applications_logger_refuses_is_lost_and_counted() -> None:
    def refuses(logger: object, method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if fields["event"] == "epoch_finished":
            raise ValueError("not this one")
        raise structlog.DropEvent

    logger = structlog.wrap_logger(None, processors=[refuses], wrapper_class=structlog.BoundLogger)
    with JsonLog(logger) as log, pytest.warns(SinkWarning, match="not this one"):
        outcome = learner_of(log).fit(1, print_stats=False)
    assert outcome.sink_failures["JsonLog"] == log.lost == 2


# -- what nntrain leaves alone ----------------------------------------------------------------------------------------

ALONE: Final = """
import logging, sys
import structlog
before = structlog.get_config(), structlog.is_configured()
root = logging.getLogger()
rooted = list(root.handlers), root.level, list(root.filters), logging.lastResort, logging.root.manager.disable
calls = []
structlog.configure = lambda *a, **k: calls.append(a)
structlog.configure_once = lambda *a, **k: calls.append(a)
from tests.log.trained import learner_of
from nntrain.log import JsonLog, read, replay
import nntrain.cli
with JsonLog(sys.argv[1], sys.stdout, structlog.get_logger(), every="all") as log:
    outcome = learner_of(log).fit(1)
    assert outcome.sink_failures == {}, outcome
assert len(list(replay(read(sys.argv[1])))) == 1
assert calls == []
assert (structlog.get_config(), structlog.is_configured()) == before
assert (list(root.handlers), root.level, list(root.filters), logging.lastResort, root.manager.disable) == rooted
ours = [name for name in root.manager.loggerDict if name.split(".")[0] == "nntrain"]
assert ours == [], ours
"""


@pytest.mark.sweep
def test_a_process_that_uses_nntrain_has_structlog_and_the_root_logger_as_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ALONE, str(tmp_path / "run.jsonl")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("run_finished") == 2, "once as JSON, and once in the format of structlog's default"
