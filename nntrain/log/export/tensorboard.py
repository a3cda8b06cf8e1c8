"""TensorBoard's event files, one folder a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Final

from nntrain.errors import LogError
from nntrain.log.events import (
    BatchFinished,
    CancelledEvent,
    FitStarted,
    HistoryReplaced,
    RunFailed,
    RunFinished,
    RunStarted,
)
from nntrain.log.export.curves import Curves
from nntrain.log.export.exporter import Exporter
from nntrain.log.export.names import name_of_run
from nntrain.log.export.text import INT64, in_json, safe, safe_sentence
from nntrain.log.extras import needed
from nntrain.log.line import Line
from nntrain.values.log_event import CheckpointLoaded, CheckpointSaved, RolledBack, WarningEvent

_TOLD: Final = (CancelledEvent, WarningEvent, CheckpointSaved, CheckpointLoaded, RolledBack)


class TensorBoard(Exporter):
    """Writes event files into a folder that `tensorboard --logdir` reads, a sub-folder for each run.

    The curves are those of `Curves`; the configuration, what was cancelled, warnings, failures and checkpoints are
    texts. Each has its line's time, so an old log lies at its own time. A file is named after its first line: the same
    log exported again replaces what it wrote.

    Needs the extra `tensorboard`. Source: the format of TensorFlow's `Event` protocol buffers in a TFRecord file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._format = _Format.loaded()
        self._runs: dict[tuple[str, int], _EventFile] = {}
        self._closed = False

    def write(self, line: Line, /) -> None:
        """Write what a line tells into its run's file."""
        if self._closed:
            raise LogError(f"The event files in {self._folder} are closed.")
        run = self._runs.get((line.run_id, line.rank))
        if run is None:
            run = self._runs[line.run_id, line.rank] = _EventFile(self._folder / name_of_run(line), line, self._format)
        run.tell(line)

    def flush(self) -> None:
        """Let TensorBoard see what was written."""
        for run in self._runs.values():
            run.flush()

    def close(self) -> None:
        """Close the files."""
        self._closed = True
        for run in self._runs.values():
            run.close()


@dataclass(frozen=True, slots=True)
class _Format:
    """TensorBoard's own modules of its format. Their classes come to be at run time: no type checker sees them."""

    event: ModuleType
    summary: ModuleType
    tensor: ModuleType
    types: ModuleType
    text: ModuleType
    records: ModuleType

    @classmethod
    def loaded(cls) -> _Format:
        """Import them. Raises `MissingExtraError`."""
        names = (
            *(f"compat.proto.{name}_pb2" for name in ("event", "summary", "tensor", "types")),
            "plugins.text.plugin_data_pb2",
            "summary.writer.record_writer",
        )
        purpose = "Writing TensorBoard's event files"
        return cls(*(needed(f"tensorboard.{name}", extra="tensorboard", purpose=purpose) for name in names))


class _EventFile:
    """The event file of a run."""

    def __init__(self, folder: Path, first: Line, format_: _Format) -> None:
        self._format = format_
        seconds = first.timestamp.timestamp()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{seconds:017.6f}.nntrain"
        self._file: IO[bytes] = self._path.open("wb")
        self._curves = Curves()
        self._furthest = -1
        self._add(first, file_version="brain.Event:2")

    def tell(self, line: Line) -> None:
        """Write what a line tells."""
        if isinstance(line.event, (FitStarted, HistoryReplaced)):
            self._go_back_to(line)
        values: dict[int, list[object]] = {}
        for point in self._curves.points(line):
            value = self._format.summary.Summary.Value(tag=point.curve, simple_value=point.value)
            values.setdefault(point.x, []).append(value)
            if point.axis == "step":
                self._furthest = max(self._furthest, point.x)
        if not isinstance(line.event, BatchFinished) and (text := _text(line)):
            values.setdefault(min(line.step, INT64), []).append(_text_value(line.event.event, text, self._format))
        for step, found in values.items():
            self._add(line, step=step, summary=self._format.summary.Summary(value=found))
        if isinstance(line.event, RunFinished):
            self._file.close()  # so that a log of many runs has few files open; it is opened again if need be

    def _go_back_to(self, line: Line) -> None:
        """Tell TensorBoard to drop what comes after the step at which the training goes on."""
        if self._furthest > line.step:
            session = self._format.event.SessionLog
            self._add(line, step=min(line.step + 1, INT64), session_log=session(status=session.START))
            self._furthest = line.step

    def _add(self, line: Line, **content: object) -> None:
        if self._file.closed:
            self._file = self._path.open("ab")
        event = self._format.event.Event(wall_time=line.timestamp.timestamp(), **content)
        self._format.records.RecordWriter(self._file).write(event.SerializeToString())

    def flush(self) -> None:
        """Let others see what was written."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _text(line: Line) -> str | None:
    """Give what is told as text: Markdown, in which whatever came from the log stands as code."""
    match line.event:
        case RunStarted(config=config):
            return _code(in_json(config, indent=2))
        case RunFailed(traceback=traceback):
            return _code(f"{safe_sentence(line)}\n\n{safe(traceback)}")
        case event if isinstance(event, _TOLD):
            return _code(safe_sentence(line))
        case _:
            return None


def _code(text: str) -> str:
    """Give a block of code: indented, since a fence could be closed by what stands in it."""
    return "\n".join(f"    {one}" for one in safe(text).splitlines())


def _text_value(tag: str, text: str, format_: _Format) -> object:
    content = format_.text.TextPluginData(version=0).SerializeToString()
    about = format_.summary.SummaryMetadata
    return format_.summary.Summary.Value(
        tag="config" if tag == "run_started" else tag,
        metadata=about(
            plugin_data=about.PluginData(plugin_name="text", content=content), data_class="DATA_CLASS_TENSOR"
        ),
        tensor=format_.tensor.TensorProto(dtype=format_.types.DT_STRING, string_val=[text.encode()]),
    )
