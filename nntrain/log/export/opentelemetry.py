"""OpenTelemetry log records, one for each line: docs/reference/opentelemetry.md lists the attributes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from nntrain.errors import LogError, needed
from nntrain.log.events import OWN, RunFailed
from nntrain.log.export.exporter import Exporter
from nntrain.log.export.text import Scalar, flat, safe, safe_sentence
from nntrain.log.line import COMMON_FIELDS, SCHEMA, Line

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EXCEPTION: Final = {
    "error_type": "exception.type",
    "error_message": "exception.message",
    "traceback": "exception.stacktrace",
}
_SEVERITY: Final = {"debug": "DEBUG", "info": "INFO", "warning": "WARN", "error": "ERROR"}
_ELSEWHERE: Final = {"timestamp", "level"}
_FLUSH_MS: Final = 5_000
_UINT64: Final = 2**64 - 1


class OpenTelemetry(Exporter):
    """Emits each line as a log record, through an OpenTelemetry provider: the given one, or the program's.

    The event's name is `nntrain.<event>`; a custom event keeps its name, which has a dot already. Time, severity and a
    short text as body are the record's own fields; everything else is an attribute. The provider belongs to the
    program: `close` flushes it, for five seconds at most, and does not shut it down.

    Needs the extra `opentelemetry`. Source: OpenTelemetry's logs data model, and its semantic conventions for events
    and exceptions.
    """

    def __init__(self, provider: LoggerProvider | None = None) -> None:
        needed("opentelemetry.sdk._logs", extra="opentelemetry", purpose="Emitting OpenTelemetry log records")
        from opentelemetry._logs import get_logger_provider

        self._provider = provider if provider is not None else get_logger_provider()
        self._logger = self._provider.get_logger("nntrain", version("nntrain"))
        self._closed = False

    def write(self, line: Line, /) -> None:
        """Emit a line."""
        from opentelemetry._logs import SeverityNumber

        if self._closed:
            raise LogError("The OpenTelemetry exporter is closed.")
        self._logger.emit(
            timestamp=min(max(0, (line.timestamp - _EPOCH) // timedelta(microseconds=1) * 1000), _UINT64),
            event_name=event_name(line),
            severity_number=SeverityNumber[_SEVERITY[line.level]],
            severity_text=line.level,
            body=safe_sentence(line),
            attributes=dict(attributes(line)),
        )

    def close(self) -> None:
        """Flush the provider."""
        if self._closed:
            return
        self._closed = True
        flush = getattr(self._provider, "force_flush", None)  # the SDK's provider has it, the interface does not
        if flush is not None:
            flush(_FLUSH_MS)


def event_name(line: Line) -> str:
    """Return the name of a line's event, with a namespace."""
    name = line.event.event
    return f"nntrain.{name}" if isinstance(line.event, OWN) else safe(name)


def attributes(line: Line) -> Iterator[tuple[str, Scalar | list[Scalar]]]:
    """Yield the attributes of a line.

    The fields that every line has come last: an SDK that limits the number of attributes (to 128) drops the first.
    """
    event = line.event
    for name, value in {**event.__dict__, **(event.model_extra or {})}.items():
        if name == "event":
            continue
        if isinstance(event, RunFailed) and name in _EXCEPTION:
            yield from flat(value, _EXCEPTION[name])
        else:
            yield from flat(value, f"{event_name(line) if not isinstance(event, OWN) else 'nntrain'}.{safe(name)}")
    yield "nntrain.schema", SCHEMA
    for name in COMMON_FIELDS:
        if name not in _ELSEWHERE:
            yield from flat(getattr(line, name), f"nntrain.{name}")
