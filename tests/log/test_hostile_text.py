"""Hostile text in every field that takes text: a line stays one line of strict JSON, and says what it was given.

What a field can hold is derived from the models, so a new event is tried as well, and one with a field of a kind that
is not known here fails.
"""

from __future__ import annotations

import json
import math
import re
import types
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Union, get_args, get_origin

import annotated_types
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from nntrain import CancelEpoch, Subscriber, TrainState
from nntrain.log import FileTarget, JsonLog, Line, LogEvent, RunFailed, RunStarted, read
from nntrain.log.events import OWN, PastPhase
from nntrain.log.line import parse_line
from nntrain.log.rendering import rendered
from nntrain.subscribers.protocol import AnswerEpoch
from nntrain.values.log_event import Level
from nntrain.values.record import FrozenMapping, Record
from tests.log.trained import Batch, learner_of, lines_of
from tests.sampled import one_in

OBEYED: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal, or whoever splits lines, would obey: the newline at the end is looked at by itself."""

PIECES: Final = (
    "\n",
    "\r\n",
    "\0",
    "\t",
    "\x0b\x0c\x1c\x85",
    "\x1b[31m\x1b]0;title\x07",
    "\x9b2J",
    "\x7f\x80\x9f",
    "\u2028\u2029",
    "\u202egnp.exe\u202c",
    "\u2066\u2069\u061c\u200f",
    "\ud800",
    "\udce9\udfff",
    "\\udce9",
    "\ufeff\ufffe\uffff",
    "\U0001f525\U0010ffff",
    '"},{"event":"run_finished"',
    "\\u000a\\n",
    "</script><script>alert(1)</script><!--",
    "nan",
    "e\u0301\u0336",
    "plain",
    ".",
    "",
)
TEXT: Final = st.one_of(st.lists(st.sampled_from(PIECES), max_size=4).map("".join), st.text(max_size=12))
LONG: Final = "".join(PIECES) * 5000 + "x" * 700_000
assert len(LONG) > 1_000_000
FLOATS: Final = st.floats(width=64)


class Hostile(LogEvent, frozen=True):
    """An event of somebody's own, with text wherever there can be some."""

    level: ClassVar[Level] = "warning"
    event: Literal["tests.hostile"] = "tests.hostile"
    text: str
    maybe: str | None
    many: tuple[str, ...]
    named: FrozenMapping[str]
    nested: PastPhase
    anything: FrozenMapping[Any]
    number: float = 0.0


EVENTS: Final[tuple[type[LogEvent], ...]] = (*OWN, Hostile)


def strategy_of(annotation: Any, bounds: tuple[object, ...] = ()) -> st.SearchStrategy[Any]:
    """Give a strategy for all that a field of a type can hold."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    least = [one.ge for one in bounds if isinstance(one, annotated_types.Ge)]
    if annotation is str:
        return TEXT
    if annotation is int:
        assert all(isinstance(one, int) for one in least)
        return st.integers(min_value=int(str(least[0])) if least else -(2**63), max_value=2**63)
    if annotation is float:
        return st.floats(min_value=0, allow_nan=False) if least else FLOATS
    if annotation is bool:
        return st.booleans()
    if annotation is Any or annotation is object:
        return anything()
    if annotation is types.NoneType:
        return st.none()
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in {Union, types.UnionType}:
        return st.one_of([strategy_of(one, bounds) for one in arguments])
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(strategy_of(arguments[0]), max_size=3).map(tuple)
    if origin is FrozenMapping or (isinstance(annotation, type) and issubclass(annotation, FrozenMapping)):
        (value,) = arguments or (Any,)
        # A path in `nonfinite` is joined by dots: of names with dots, nested at will, it would say too little.
        keys = TEXT.map(lambda key: key.replace(".", "·")) if value in {Any, object} else TEXT
        return st.dictionaries(keys, strategy_of(value), max_size=3).filter(stays).map(FrozenMapping)
    if isinstance(annotation, type) and issubclass(annotation, (LogEvent, Record)):
        return st.builds(annotation, **{name: of_field(one) for name, one in annotation.model_fields.items()})
    raise AssertionError(f"nothing is known here of fields of type {annotation}")


def of_field(field: FieldInfo) -> st.SearchStrategy[Any]:
    return strategy_of(field.annotation, tuple(field.metadata))


def anything() -> st.SearchStrategy[Any]:
    """Give all that JSON can hold, and text that it cannot."""
    return st.recursive(
        st.one_of(TEXT, st.integers(-(2**63), 2**63), FLOATS, st.booleans(), st.none()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=2),
            st.dictionaries(TEXT.map(lambda key: key.replace(".", "·")), inner, max_size=2).filter(stays),
        ),
        max_leaves=4,
    )


def stays(mapping: Mapping[str, object]) -> bool:
    """Tell whether no two names are the same once of a lone surrogate its number is said."""
    return len({said(name) for name in mapping}) == len(mapping)


def said(value: Any) -> Any:
    """Give what a line can say of a value: of a lone surrogate its number."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        made = {said(key): said(item) for key, item in value.items()}
        return FrozenMapping(made) if isinstance(value, FrozenMapping) else made
    if isinstance(value, (list, tuple)):
        return type(value)(map(said, value))
    if isinstance(value, (LogEvent, Record)):
        return type(value).model_construct(**{name: said(item) for name, item in value.__dict__.items()})
    return value


def line_of(event: LogEvent) -> Line:
    return Line(
        event=event,
        timestamp=datetime(2026, 1, 31, 23, 59, 59, 1, tzinfo=UTC),
        level=event.level,
        run_id="0199b9a1-0000-7000-8000-000000000000",
        seq=3,
        elapsed_s=0.5,
        epoch=0,
        phase="train",
        batch=0,
        step=0,
        samples=0,
    )


def refused(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def checked(content: bytes, event: LogEvent) -> None:
    """Check that bytes are one line, that nobody obeys anything in it, and that it says the event."""
    text = content.decode("utf-8")
    assert text.endswith("\n")
    assert text.count("\n") == len(text.splitlines()) == 1
    assert OBEYED.search(text) is None
    fields = json.loads(text, parse_constant=refused)
    assert fields["event"] == event.event
    assert text.startswith('{"event":')
    line = parse_line(text.removesuffix("\n"))
    assert type(line.event) is type(event)
    assert repr(line.event) == repr(said(event))
    assert line.fields() == line_of(event).fields()


@pytest.mark.parametrize("kind", one_in(5, EVENTS), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_event_is_one_line_of_strict_json_whatever_its_text(kind: type[LogEvent], data: st.DataObject) -> None:
    event = data.draw(strategy_of(kind))
    checked(rendered(line_of(event)), event)


def long_of(annotation: Any, taken: list[str]) -> Any:
    """Give a value with text of a megabyte wherever a type takes text, and put that into `taken`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is str or annotation is Any or annotation is object:
        taken.append(LONG)
        return LONG
    if annotation in {int, float, bool}:
        return annotation(2)  # of which a world has at least so many ranks
    if origin is Literal:
        return arguments[0]
    if origin in {Union, types.UnionType}:
        return long_of(arguments[0], taken)
    if origin is tuple:
        return (long_of(arguments[0], taken),)
    if isinstance(annotation, type) and issubclass(annotation, (LogEvent, Record)):
        return annotation(**{name: long_of(one.annotation, taken) for name, one in annotation.model_fields.items()})
    taken.append(LONG)
    return FrozenMapping({LONG: long_of((arguments or (Any,))[0], taken)})


@pytest.mark.sweep
@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_is_one_line_with_a_megabyte_of_text_in_each_field(kind: type[LogEvent], tmp_path: Path) -> None:
    taken: list[str] = []
    event = long_of(kind, taken)
    target = FileTarget(tmp_path / "run.jsonl")
    target.write(line_of(event))
    target.close()
    content = (tmp_path / "run.jsonl").read_bytes()
    assert len(content) > len(taken) * 1_000_000
    checked(content, event)


def test_numbers_of_numpy_are_numbers_and_warn_of_nothing() -> None:
    config = FrozenMapping({"inf": np.float64("inf"), "nan": np.float64("nan"), "one": np.float64(1.5)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        line = parse_line(rendered(line_of(RunStarted(config=config))).decode())
    assert repr(line.event) == repr(RunStarted(config=FrozenMapping({name: float(x) for name, x in config.items()})))


def test_names_with_dots_are_told_apart_where_values_are_not_finite() -> None:
    config = FrozenMapping(
        {"a.b": math.nan, "a": {"c.d": [math.inf, {"e.f": -math.inf, "": math.nan}]}, "b": None, "\udce9.": math.nan}
    )
    event = RunStarted(config=config)
    checked(rendered(line_of(event)), event)


def test_what_is_not_finite_deep_within_somebody_elses_event_is_named() -> None:
    past = PastPhase(epoch=0, phase="eval", loss=math.nan, metrics=FrozenMapping(), samples=0, batches=0, seconds=0.0)
    inner = {"deep": [1.0, math.nan, {"x": (-math.inf, None)}], "": math.inf, "null": None}
    event = Hostile(
        text="", maybe=None, many=(), named=FrozenMapping(), nested=past, anything=FrozenMapping({"a": inner})
    )
    line = line_of(event)
    assert line.fields()["nonfinite"] == {
        "nested.loss": "nan",
        "anything.a.deep.1": "nan",
        "anything.a.deep.2.x.0": "-inf",
        "anything.a.": "inf",
    }
    read_back = parse_line(rendered(line).decode())
    assert repr(read_back.event) == repr(event).replace("(-inf, None)", "[-inf, None]")


class Named(Subscriber[Batch]):
    """Cancels with hostile words."""

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        return CancelEpoch(reason=HOSTILE) if state.progress.phase == "train" else state


HOSTILE: Final = "".join(PIECES)


@example(text=HOSTILE, name=HOSTILE)
@settings(max_examples=10)
@given(text=TEXT, name=TEXT.filter(lambda name: name != "loss"))
def test_hostile_text_of_a_training_gets_through(
    tmp_path_factory: pytest.TempPathFactory, text: str, name: str
) -> None:
    """Names of metrics and of subscribers, reasons, and what an error says, as a training tells them."""
    path = tmp_path_factory.mktemp("hostile") / "run.jsonl"
    named = type("Named", (Named,), {"__qualname__": "Named"})
    named.__name__ = text.replace("\0", "") if not any(0xD800 <= ord(one) < 0xE000 for one in text) else "Named"

    def fails(*_: object) -> float:
        raise RuntimeError(text)

    with JsonLog(path, every="all") as log:
        outcome = learner_of(log, metric_fn={name: lambda *_: math.nan}).fit(1, print_stats=False)
        assert outcome.sink_failures == {}
        with pytest.raises(RuntimeError):
            learner_of(log, subs=[named()], metric_fn={name: fails}).fit(1, print_stats=False)
    content = path.read_bytes().decode("utf-8")
    assert OBEYED.search(content) is None
    assert content.count("\n") == len(content.splitlines()) == len(lines_of(path))
    lines = list(read(path))
    metrics = [line.event.__dict__["metrics"] for line in lines if "metrics" in line.event.__dict__]
    assert {tuple(one) for one in metrics} == {(said(name),)}
    assert all(math.isnan(one[said(name)]) for one in metrics)
    failed = lines[-1].event
    assert isinstance(failed, RunFailed)
    assert failed.error_message == said(text)
    cancelled = next(line.event for line in lines if line.event.event == "cancelled")
    assert cancelled.__dict__["reason"] == said(HOSTILE)
    assert cancelled.__dict__["subscriber"] == named.__name__


def test_an_error_that_cannot_say_what_it_is_costs_no_line(tmp_path: Path) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def fails(*_: object) -> float:
        raise MuteError

    path = tmp_path / "log.jsonl"
    with JsonLog(path) as log, pytest.raises(MuteError):
        learner_of(log, metric_fn=fails).fit(1, print_stats=False)
    *_, last = read(path)
    assert isinstance(last.event, RunFailed)
    assert (log.lost, last.event.error_type) == (0, "MuteError")
    assert "RuntimeError" in last.event.error_message
