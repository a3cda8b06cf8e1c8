"""TensorBoard's event files, one folder a run."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Final

from nntrain.errors import needed
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
from nntrain.log.export.exporter import Exporter, RunExporter
from nntrain.log.export.names import name_of_run
from nntrain.log.export.text import INT64, in_json, safe, safe_sentence
from nntrain.log.line import Line
from nntrain.values.log_event import CheckpointLoaded, CheckpointSaved, RolledBack, WarningEvent

_AS_TEXT: Final = (CancelledEvent, WarningEvent, CheckpointSaved, CheckpointLoaded, RolledBack)


class TensorBoard(RunExporter):
    """Writes event files into a folder that `tensorboard --logdir` reads, a sub-folder for each run.

    The curves are those of `Curves`; the configuration, cancellations, warnings, failures and checkpoints are texts.
    Each has its line's time, so an old log is shown at the time when it was written. A file is named after its first
    line: exporting the same log again replaces the file.

    Needs the extra `tensorboard`. Source: the format of TensorFlow's `Event` protocol buffers in a TFRecord file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._format = _load_format()
        super().__init__(f"event files in {self._folder}")

    def _run(self, first: Line) -> Exporter:
        return _EventFile(self._folder / name_of_run(first), first, self._format)


def _load_format() -> SimpleNamespace:
    """Return TensorBoard's modules for its format. Their classes are made at run time: no type checker sees them."""
    modules = {name: f"compat.proto.{name}_pb2" for name in ("event", "summary", "tensor", "types")}
    modules |= {"text": "plugins.text.plugin_data_pb2", "records": "summary.writer.record_writer"}
    load = partial(needed, extra="tensorboard", purpose="Writing TensorBoard's event files")
    return SimpleNamespace(**{name: load(f"tensorboard.{module}") for name, module in modules.items()})


class _EventFile(Exporter):
    """The event file of a run."""

    def __init__(self, folder: Path, first: Line, format_: SimpleNamespace) -> None:
        self._format = format_
        seconds = first.timestamp.timestamp()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{seconds:017.6f}.nntrain"
        self._file: IO[bytes] = self._path.open("wb")
        self._curves = Curves()
        self._furthest = -1
        self._add(first, file_version="brain.Event:2")

    def write(self, line: Line, /) -> None:
        """Write the points and the text of a line."""
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
            self._file.close()  # keeps few files open for a log of many runs; `_add` opens it again

    def _go_back_to(self, line: Line) -> None:
        """Make TensorBoard drop the points after the step from which the training goes on."""
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
        """Make what was written visible to others."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _text(line: Line) -> str | None:
    """Return the text for a line, as Markdown in which all text of the log is code; None for most lines."""
    match line.event:
        case RunStarted(config=config):
            return _code(in_json(config, indent=2))
        case RunFailed(traceback=traceback):
            return _code(f"{safe_sentence(line)}\n\n{safe(traceback)}")
        case event if isinstance(event, _AS_TEXT):
            return _code(safe_sentence(line))
        case _:
            return None


def _code(text: str) -> str:
    """Return a block of code. It is indented, because the text itself could close a fence."""
    return "\n".join(f"    {one}" for one in safe(text).splitlines())


def _text_value(tag: str, text: str, format_: SimpleNamespace) -> object:
    content = format_.text.TextPluginData(version=0).SerializeToString()
    about = format_.summary.SummaryMetadata
    return format_.summary.Summary.Value(
        tag="config" if tag == "run_started" else tag,
        metadata=about(
            plugin_data=about.PluginData(plugin_name="text", content=content), data_class="DATA_CLASS_TENSOR"
        ),
        tensor=format_.tensor.TensorProto(dtype=format_.types.DT_STRING, string_val=[text.encode()]),
    )
