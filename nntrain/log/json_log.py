"""The log as a sink: whole lines, appended, through a structlog logger of its own."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pydantic
import structlog
import torch

from nntrain.errors import LogError
from nntrain.log.events import SCHEMA, LogEvent, RunStarted, events_of, fields_of
from nntrain.records import FrozenMapping
from nntrain.transitions import Transition


class JsonLog:
    """Append the events of a run to `path`, one JSON object a line. A sink, and a context manager.

    Each line is one write of a whole line with `O_APPEND`; epochs' ends and the run's end are synced to disk. Each fit
    is a run: its own `run_id`, `seq` from 0. A line that cannot be written is counted in `lost`, and the next line that
    gets through says how many were lost. The log then fails as any sink does: it is reported once, and the training
    goes on. A file that the log made itself and wrote nothing to is removed when it is closed.

    Raises `LogError` at once where `path` cannot be opened for writing.
    """

    every_batch: Final = False

    def __init__(self, path: str | os.PathLike[str], *, run_id: str | None = None) -> None:
        self.path = Path(path)
        self.lost = 0
        self._given_id = run_id
        self._run: tuple[str, float] | None = None
        self._seq = 0
        self._unsaid = 0
        self._failure: OSError | None = None
        self._made = not self.path.exists()
        self._file: int | None = _open(self.path)
        self._logger = structlog.wrap_logger(
            _Lines(self._write),
            processors=[_timestamp, structlog.processors.JSONRenderer(ensure_ascii=False, allow_nan=False)],
            wrapper_class=structlog.BoundLoggerBase,
        )

    def __call__(self, transition: Transition, /) -> None:
        """Write the events that a transition comes to. Raises `LogError` where a line is lost."""
        self._failure = None
        if self._run is None:
            self._begin(transition)
        for event in events_of(transition):
            self._log(event)
            if event.event in {"run_failed", "run_finished"}:
                self._run = None
            if event.event not in {"run_started", "cancelled"}:
                self._sync()
        if self._failure is not None:
            raise LogError(f"the log {self.path} cannot be written ({self._failure})") from self._failure

    def _begin(self, transition: Transition) -> None:
        self._run = (self._given_id or _new_id(), time.monotonic())
        self._seq = 0
        run, place = transition.run, transition.progress
        config: dict[str, object] = {
            "learner": run.learner,
            **run.config,
            "versions": _versions(),
            "device": run.device,
            "seed": run.seed,
            "host": {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
        }
        self._log(
            RunStarted(
                epoch=place.epoch,
                phase=place.phase,
                batch=place.batch,
                step=place.step,
                samples=place.samples,
                config=FrozenMapping(config),
            )
        )

    def _log(self, event: LogEvent) -> None:
        if self._run is None:
            return
        run_id, began = self._run
        fields = fields_of(event)
        name, level = fields.pop("event"), fields.pop("level")
        head: dict[str, object] = {
            "schema": SCHEMA,
            "timestamp": None,  # the processor's, at its place in the line
            "level": level,
            "run_id": run_id,
            "seq": self._seq,
            "elapsed_s": round(time.monotonic() - began, 6),
            "rank": 0,
        }
        self._seq += 1
        if self._unsaid:
            head["lost_lines"] = self._unsaid
        self._logger._proxy_to_logger("msg", str(name), **head, **fields)

    def _write(self, line: str) -> None:
        content = (line + "\n").encode()
        try:
            if self._file is None:
                raise OSError("the log is closed")
            written = os.write(self._file, content)
            if written != len(content):
                raise OSError(f"only {written} of {len(content)} bytes fitted")
        except OSError as error:
            self.lost += 1
            self._unsaid += 1
            self._failure = error
        else:
            self._unsaid = 0
            self._made = False

    def _sync(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # pipes and terminals have nothing to sync
                os.fsync(self._file)

    def close(self) -> None:
        """Close the file. Lines after this are lost, and counted."""
        if self._file is None:
            return
        self._sync()
        os.close(self._file)
        self._file = None
        if self._made:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Lines:
    """The end of the structlog chain: takes each rendered line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.msg = write


def _timestamp(logger: object, method: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001 - structlog's signature
    """Put the name first, and the time in: RFC 3339, UTC, microseconds."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"event": fields["event"], **fields, "timestamp": now}


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LogError(
            f"The log {path} cannot be written: {reason}. Give the path of a file in a folder that exists and that "
            f"you may write to."
        ) from error


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("nntrain")
    except PackageNotFoundError:  # run from a source tree
        own = "0"
    return {
        "nntrain": own,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "pydantic": pydantic.VERSION,
        "structlog": version("structlog"),
    }


def _new_id() -> str:
    """Give a UUID, time-ordered where Python has version 7."""
    make: Callable[[], uuid.UUID] = getattr(uuid, "uuid7", uuid.uuid4)
    return str(make())
