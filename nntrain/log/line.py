"""A line of the log: what every line has, and the event; to plain JSON values, and back.

A value that is not finite is null, and its name and kind stand in `nonfinite`; a value that is absent is an absent key.
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
BEGINNING: Final = '{"event"'
"""How each line begins."""
_FAMILY: Final = "nntrain.event/"
_KINDS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_NULL: Final = object()
"""Stands for a null that is to be written: what is None is left out."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

Problem = Literal["unreadable", "empty", "binary", "foreign", "version", "torn", "invalid"]
"""What can be wrong with a log, or with a line of one."""


class LineError(ValueError):
    """Text that is no line of a log: what is wrong with it, by kind and in words."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem: Problem = problem


def _rfc3339(value: object) -> object:
    """Take the one form that a line has."""
    if isinstance(value, str) and not _TIMESTAMP.fullmatch(value):
        raise ValueError("expected RFC 3339 in UTC with microseconds, like 2026-01-31T23:59:59.000001Z")
    return value


class Line(Record, frozen=True):
    """One line: the event, when and in which run it happened, and where the training stood (the state's `Progress`).

    `seq` counts the lines of a run and rank from 0, and a gap means a lost line. `elapsed_s` are monotonic seconds
    since the run began, right even when the clock jumps. `lost_lines` are those lost just before this one.
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

    def fields(self) -> dict[str, object]:
        """Give the line as plain JSON values, flat, in the order of a written line."""
        event = self.event
        fields: dict[str, object] = {
            "event": event.event,
            "schema": SCHEMA,
            "timestamp": stamped(self.timestamp),
            "level": self.level,
            "run_id": self.run_id,
            "seq": self.seq,
            "elapsed_s": self.elapsed_s,
            "rank": self.rank,
            "epoch": self.epoch,
            "phase": self.phase,
            "batch": self.batch,
            "step": self.step,
            "samples": self.samples,
        }
        if self.lost_lines is not None:
            fields["lost_lines"] = self.lost_lines
        nonfinite: dict[str, str] = {}
        values = event.__dict__ if type(event) in _OWN_KINDS else _others_values(event)
        for name, value in values.items():
            if type(value) is float and value - value == 0.0:  # most are; a call for each costs a batch's line 5 %
                fields[name] = value
            elif name != "event" and value is not None:
                fields[name] = plain(value, name, nonfinite)
        if nonfinite:
            fields["nonfinite"] = nonfinite
        return fields


HEAD: Final = (*(name for name in Line.model_fields if name != "event"),)
"""The names of what every line has, beside `event` and `schema`."""

_OWN_KINDS: Final = frozenset(OWN)
_OWN_NAMES: Final = frozenset(str(kind.model_fields["event"].default) for kind in OWN)
_OWN_EVENTS: Final[TypeAdapter[LogEvent]] = TypeAdapter(OwnEvent)


def stamped(moment: datetime) -> str:
    """Give a moment as a line has it: RFC 3339, UTC, microseconds, Z."""
    since = moment - _EPOCH
    return f"{_second(since.days, since.seconds)}.{since.microseconds:06d}Z"


@lru_cache(maxsize=4)
def _second(days: int, seconds: int) -> str:
    """Give a second's text. Many batches end in one, and making it takes as long as a write."""
    return (_EPOCH + timedelta(days, seconds)).isoformat()[:19]


def _others_values(event: LogEvent) -> Mapping[str, object]:
    """Give the fields of somebody else's event, as JSON can hold them; a null that must be there is said so."""
    fields = type(event).model_fields
    event = _encodable(event)
    dumped: dict[str, object] = _with_nonfinite(event.model_dump(mode="json"), event)
    return {
        name: _NULL if value is None and name in fields and fields[name].is_required() else value
        for name, value in dumped.items()
    }


def _with_nonfinite(dumped: Any, given: object) -> Any:
    """Give what pydantic made of a value, with the numbers that are not finite where it made nulls of them."""
    if dumped is None and isinstance(given, float):
        return given
    if isinstance(given, BaseModel):
        given = {**given.__dict__, **(given.model_extra or {})}
    if isinstance(dumped, dict) and isinstance(given, Mapping):
        return {name: _with_nonfinite(value, given.get(name)) for name, value in dumped.items()}
    if isinstance(dumped, list) and isinstance(given, (list, tuple)) and len(dumped) == len(given):
        return [_with_nonfinite(value, one) for value, one in zip(dumped, given, strict=True)]
    return dumped


def _encodable(value: Any) -> Any:
    """Give a value without lone surrogates, at which pydantic fails, or puts a question mark; itself if it has none."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, BaseModel):
        items = {**value.__dict__, **(value.model_extra or {})}
        changes = {name: now for name, item in items.items() if (now := _encodable(item)) is not item}
        return value.model_copy(update=changes) if changes else value
    if isinstance(value, Mapping):
        pairs = [(_encodable(key), _encodable(item)) for key, item in value.items()]
        if all(key is old and now is item for (key, now), (old, item) in zip(pairs, value.items(), strict=True)):
            return value
        return FrozenMapping(dict(pairs)) if isinstance(value, FrozenMapping) else dict(pairs)
    if type(value) in {list, tuple}:
        given = [_encodable(item) for item in value]
        return type(value)(given) if any(now is not item for now, item in zip(given, value, strict=True)) else value
    return value


def plain(value: object, path: str, nonfinite: dict[str, str]) -> object:
    """Give a value as JSON can hold it; what is not finite is None, and `nonfinite` gets its path and kind."""
    if isinstance(value, float):
        if type(value) is not float:
            value = float(value)  # numpy's warns of what comes next
        if value - value == 0.0:  # twice as fast as math.isfinite, and most values are numbers
            return value
        nonfinite[path] = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        return None
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if value is _NULL:
        return None
    if type(value) is FrozenMapping or isinstance(value, Mapping):
        named: dict[str, object] = {}
        for key, item in value.items():
            name = _text(str(key))
            named[name] = plain(item, f"{path}.{name}", nonfinite)
        return named
    if isinstance(value, BaseModel):
        return plain(value.__dict__, path, nonfinite)
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}.{index}", nonfinite) for index, item in enumerate(value)]
    return plain(repr(value), path, nonfinite)


def _text(text: str) -> str:
    """Give what UTF-8 can hold: of a lone surrogate its number."""
    if text.isascii():
        return text
    encoded = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if encoded == text else encoded


def _no_constant(name: str) -> float:
    raise LineError("invalid", f"{name} is no JSON; a value that is not finite is null, and named in nonfinite")


def parsed(text: str) -> Line:
    """Give the line that `text` is. Raises `LineError` where it is none."""
    try:
        fields: object = json.loads(text, parse_constant=_no_constant)
    except LineError:
        raise
    except (ValueError, RecursionError) as error:
        ours = text.startswith(BEGINNING) or BEGINNING.startswith(text)
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
        return _line(fields)
    except ValidationError as error:
        raise LineError("invalid", _said(error)) from None


def _line(fields: dict[str, Any]) -> Line:
    for path, kind in _checked_nonfinite(fields.get("nonfinite", {})).items():
        if not _put(fields, path.split("."), _KINDS[kind]):
            raise LineError("invalid", f"nonfinite names {path!r:.80}, which is not null in the line")
    name = fields.get("event")
    own = {key: value for key, value in fields.items() if key not in RESERVED}
    if name in _OWN_NAMES:
        event = _OWN_EVENTS.validate_python(own)
    elif isinstance(name, str) and "." in name:
        event = (registered(name) or OtherEvent).model_validate(own)
    else:
        raise LineError("invalid", f"event is {name!r:.80}; expected one of {', '.join(sorted(_OWN_NAMES))}, or a.b")
    head = {key: fields[key] for key in HEAD if key in fields}
    return Line.model_validate({"event": event, **head})


def _checked_nonfinite(nonfinite: object) -> Mapping[str, str]:
    if not isinstance(nonfinite, dict) or not set(map(str, nonfinite.values())) <= set(_KINDS):
        raise LineError("invalid", f"nonfinite is {nonfinite!r:.80}; expected names, each with nan, inf or -inf")
    return nonfinite


def _put(container: object, path: Sequence[str], value: float) -> bool:
    """Put a value where `path` leads to a null; the names on the way may have dots in them."""
    if isinstance(container, list):
        index = int(path[0]) if path[0].isdecimal() else -1
        if not 0 <= index < len(container):
            return False
        if len(path) > 1:
            return _put(container[index], path[1:], value)
        if container[index] is None:
            container[index] = value
            return True
    if isinstance(container, dict):
        for end in range(len(path), 0, -1):
            name = ".".join(path[:end])
            if name not in container:
                continue
            if end < len(path):
                if _put(container[name], path[end:], value):
                    return True
            elif container[name] is None:
                container[name] = value
                return True
    return False


def _said(error: ValidationError) -> str:
    """Say what is wrong with which field, and what was given, in a line."""
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'the line'}: {one['msg']}"
        + ("" if one["type"] == "missing" else f" (given {one['input']!r:.80})")
        for one in error.errors(include_url=False)[:5]
    )
