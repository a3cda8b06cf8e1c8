"""A line of the log: the fields that every line has, and the event; to plain JSON values, and back.

A value that is not finite is written as null, and `nonfinite` has its name and kind. A value that is None is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, SerializeAsAny, TypeAdapter, ValidationError

from nntrain.log.events import OWN, OtherEvent, OwnEvent
from nntrain.values.log_event import RESERVED, Level, LogEvent, registered
from nntrain.values.progress import Phase
from nntrain.values.record import FrozenMapping, Record

SCHEMA: Final = "nntrain.event/1"
"""The name and version of a line's schema, which each line has."""
LINE_START: Final = '{"event"'
"""How each line begins."""
_FAMILY: Final = "nntrain.event/"
_NONFINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_NULL: Final = object()
"""Stands for a null that is written; None is left out."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

Problem = Literal["unreadable", "empty", "binary", "foreign", "version", "torn", "invalid"]
"""What can be wrong with a log, or with a line of it."""


class LineError(ValueError):
    """Text that is not a valid line: what is wrong, as a kind and in words."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem: Problem = problem


def _rfc3339(value: object) -> object:
    """Return the value. Raises `ValueError` for a text that is not in the one format that a line has."""
    if isinstance(value, str) and not _TIMESTAMP.fullmatch(value):
        raise ValueError("expected RFC 3339 in UTC with microseconds, like 2026-01-31T23:59:59.000001Z")
    return value


class Line(Record, frozen=True):
    """One line: the event, when and in which run it happened, and how far the training was (the state's `Progress`).

    `seq` counts the lines of a run and rank from 0; a gap means a lost line. `elapsed_s` is the time since the run
    began, in seconds of a monotonic clock, which never jumps. `lost_lines` counts those lost just before this one.
    """

    event: SerializeAsAny[LogEvent]
    timestamp: Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
    level: Level
    run_id: str = Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    seq: int = Field(ge=0)
    elapsed_s: float = Field(ge=0, allow_inf_nan=False)
    rank: int = Field(default=0, ge=0)
    lost_lines: int | None = Field(default=None, ge=1)
    epoch: int = Field(ge=0)
    phase: Phase
    batch: int = Field(ge=0)
    step: int = Field(ge=0)
    samples: int = Field(ge=0)

    @property
    def data(self) -> str:
        """The name of the set that is evaluated, as far as nntrain's own event says it, else ""."""
        data: str | None = getattr(self.event, "data", None) if type(self.event) in _OWN_CLASSES else None
        return data or ""

    @property
    def label(self) -> str:
        """What the phase is called: the name of its set, else "train" or "eval"."""
        return self.data or self.phase

    def fields(self) -> dict[str, object]:
        """Return the line as plain JSON values, flat, in the order in which they are written."""
        event = self.event
        fields: dict[str, object] = {"event": event, "schema": SCHEMA, **self.__dict__}
        fields["event"], fields["timestamp"] = event.event, format_timestamp(self.timestamp)
        lost = fields.pop("lost_lines")
        if lost is not None:
            fields["lost_lines"] = lost
        nonfinite: dict[str, str] = {}
        values = event.__dict__ if type(event) in _OWN_CLASSES else _custom_values(event)
        for name, value in values.items():
            if type(value) is float and value - value == 0.0:  # the usual case: calling `plain` costs 5 % more
                fields[name] = value
            elif name != "event" and value is not None:
                fields[name] = plain(value, name, nonfinite)
        if nonfinite:
            fields["nonfinite"] = nonfinite
        return fields


COMMON_FIELDS: Final = (*(name for name in Line.model_fields if name != "event"),)
"""The names of the fields that every line has, besides `event` and `schema`."""

_OWN_CLASSES: Final = frozenset(OWN)
_OWN_NAMES: Final = frozenset(str(kind.model_fields["event"].default) for kind in OWN)
_OWN_EVENTS: Final[TypeAdapter[LogEvent]] = TypeAdapter(OwnEvent)


def format_timestamp(moment: datetime) -> str:
    """Return a time as a line has it: RFC 3339, UTC, microseconds, Z."""
    since = moment - _EPOCH
    return f"{_second(since.days, since.seconds)}.{since.microseconds:06d}Z"


@lru_cache(maxsize=4)
def _second(days: int, seconds: int) -> str:
    """Return a second as text. Cached: it takes as long as a write, and many batches end in the same second."""
    return (_EPOCH + timedelta(days, seconds)).isoformat()[:19]


def _custom_values(event: LogEvent) -> Mapping[str, object]:
    """Return the fields of a custom event as JSON values; a None in a required field becomes `_NULL`."""
    fields = type(event).model_fields
    event = _utf8_safe(event)
    dumped: dict[str, object] = _restore_nonfinite(event.model_dump(mode="json"), event)
    return {
        name: _NULL if value is None and name in fields and fields[name].is_required() else value
        for name, value in dumped.items()
    }


def _restore_nonfinite(dumped: Any, given: object) -> Any:
    """Return `dumped`, which pydantic made of `given`, with NaN and infinities where pydantic wrote null for them."""
    if dumped is None and isinstance(given, float):
        return given
    if isinstance(given, BaseModel):
        given = {**given.__dict__, **(given.model_extra or {})}
    if isinstance(dumped, dict) and isinstance(given, Mapping):
        return {name: _restore_nonfinite(value, given.get(name)) for name, value in dumped.items()}
    if isinstance(dumped, list) and isinstance(given, (list, tuple)) and len(dumped) == len(given):
        return [_restore_nonfinite(value, one) for value, one in zip(dumped, given, strict=True)]
    return dumped


def _utf8_safe(value: Any) -> Any:
    """Return a value with lone surrogates escaped, since pydantic fails at them; the same object if it has none."""
    if isinstance(value, str):
        return _escape_surrogates(value)
    if isinstance(value, BaseModel):
        items = {**value.__dict__, **(value.model_extra or {})}
        changes = {name: now for name, item in items.items() if (now := _utf8_safe(item)) is not item}
        return value.model_copy(update=changes) if changes else value
    if isinstance(value, Mapping):
        pairs = [(_utf8_safe(key), _utf8_safe(item)) for key, item in value.items()]
        if all(key is old and now is item for (key, now), (old, item) in zip(pairs, value.items(), strict=True)):
            return value
        return FrozenMapping(dict(pairs)) if isinstance(value, FrozenMapping) else dict(pairs)
    if type(value) in {list, tuple}:
        given = [_utf8_safe(item) for item in value]
        return type(value)(given) if any(now is not item for now, item in zip(given, value, strict=True)) else value
    return value


def plain(value: object, path: str, nonfinite: dict[str, str]) -> object:
    """Return a value as JSON values; for one that is not finite None, and `nonfinite` gets its path and kind."""
    if isinstance(value, float):
        if type(value) is not float:
            value = float(value)  # a numpy float would warn at the subtraction below
        if value - value == 0.0:  # twice as fast as math.isfinite, and most values are numbers
            return value
        nonfinite[path] = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        return None
    if isinstance(value, str):
        return _escape_surrogates(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if value is _NULL:
        return None
    if type(value) is FrozenMapping or isinstance(value, Mapping):
        named: dict[str, object] = {}
        for key, item in value.items():
            name = _escape_surrogates(str(key))
            named[name] = plain(item, f"{path}.{name}", nonfinite)
        return named
    if isinstance(value, BaseModel):
        return plain({name: one for name, one in value.__dict__.items() if one is not None}, path, nonfinite)
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}.{index}", nonfinite) for index, item in enumerate(value)]
    return plain(repr(value), path, nonfinite)


def _escape_surrogates(text: str) -> str:
    """Return text that UTF-8 can encode: lone surrogates are escaped."""
    if text.isascii():
        return text
    encoded = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if encoded == text else encoded


def _no_constant(name: str) -> float:
    raise LineError("invalid", f"{name} is no JSON; a value that is not finite is null, and named in nonfinite")


def parse_line(text: str) -> Line:
    """Return the line that `text` holds. Raises `LineError` if it is not a valid line."""
    try:
        fields: object = json.loads(text, parse_constant=_no_constant)
    except LineError:
        raise
    except (ValueError, RecursionError) as error:
        ours = text.startswith(LINE_START) or LINE_START.startswith(text)
        what = "the line is torn" if ours else "the line is no JSON"
        raise LineError("torn" if ours else "foreign", f"{what} ({error})") from None
    if not isinstance(fields, dict) or not str(fields.get("schema", "")).startswith(_FAMILY):
        given = (
            f"schema is {fields['schema']!r:.80}" if isinstance(fields, dict) and "schema" in fields else "no schema"
        )
        raise LineError("foreign", f"the line is JSON, but no event of an nntrain log ({given}, not {SCHEMA})")
    if fields["schema"] != SCHEMA:
        raise LineError(
            "version",
            f"schema is {fields['schema']!r:.80}; this nntrain reads {SCHEMA}. Read it with the nntrain that wrote it, "
            f"or a later one",
        )
    try:
        return _from_fields(fields)
    except ValidationError as error:
        raise LineError("invalid", _describe(error)) from None


def _from_fields(fields: dict[str, Any]) -> Line:
    for path, kind in _check_nonfinite(fields.get("nonfinite", {})).items():
        if not _fill_null(fields, path.split("."), _NONFINITE[kind]):
            raise LineError("invalid", f"nonfinite names {path!r:.80}, which is not null in the line")
    name = fields.get("event")
    own = {key: value for key, value in fields.items() if key not in RESERVED}
    if name in _OWN_NAMES:
        event = _OWN_EVENTS.validate_python(own)
    elif isinstance(name, str) and "." in name:
        event = (registered(name) or OtherEvent).model_validate(own)
    else:
        raise LineError("invalid", f"event is {name!r:.80}; expected one of {', '.join(sorted(_OWN_NAMES))}, or a.b")
    head = {key: fields[key] for key in COMMON_FIELDS if key in fields}
    return Line.model_validate({"event": event, **head})


def _check_nonfinite(nonfinite: object) -> Mapping[str, str]:
    if not isinstance(nonfinite, dict) or not set(map(str, nonfinite.values())) <= set(_NONFINITE):
        raise LineError("invalid", f"nonfinite is {nonfinite!r:.80}; expected names, each with nan, inf or -inf")
    return nonfinite


def _fill_null(container: object, path: Sequence[str], value: float) -> bool:
    """Replace the null at `path` by a value. Returns whether there was one. A name in the path may contain dots."""
    if isinstance(container, list):
        index = int(path[0]) if path[0].isdecimal() else -1
        if not 0 <= index < len(container):
            return False
        if len(path) > 1:
            return _fill_null(container[index], path[1:], value)
        if container[index] is None:
            container[index] = value
            return True
    if isinstance(container, dict):
        for end in range(len(path), 0, -1):
            name = ".".join(path[:end])
            if name not in container:
                continue
            if end < len(path):
                if _fill_null(container[name], path[end:], value):
                    return True
            elif container[name] is None:
                container[name] = value
                return True
    return False


def _describe(error: ValidationError) -> str:
    """Return one line of text that says which fields are wrong, how, and what was given."""
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'the line'}: {one['msg']}"
        + ("" if one["type"] == "missing" else f" (given {one['input']!r:.80})")
        for one in error.errors(include_url=False)[:5]
    )
