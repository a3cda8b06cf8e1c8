"""The base classes of exporters, which are targets of lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar, Self

from nntrain.errors import LogError
from nntrain.log.export.text import safe
from nntrain.log.line import Line
from nntrain.log.targets import Target


class Exporter(Target):
    """Writes a log's lines in another tool's format: of a training on several processes, those of rank 0.

    Pass one to a `JsonLog` as a further target, and it writes during the training; or pass it the lines of a log
    afterwards, with `export`. The lines may be of several runs, in the order of their log. `close` completes the
    output; `write` must not be called after it.

    `write` and `close` raise `OSError` (`LogError` is one) if the other tool fails. Making an exporter raises
    `MissingExtraError` if its package is not installed.
    """

    of_first_rank: ClassVar[bool] = True

    @abstractmethod
    def close(self) -> None:
        """Write everything, and release files and services. Calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class RunExporter(Exporter):
    """An exporter that has a further one for each run and rank. The tool's own `errors` become a `LogError`."""

    def __init__(self, outputs: str, tool: str = "", *errors: type[Exception]) -> None:
        self._outputs, self._tool, self._errors = outputs, tool, errors
        self._runs: dict[tuple[str, int], Exporter] = {}
        self._closed = False

    @abstractmethod
    def _run(self, first: Line) -> Exporter:
        """Return an exporter for the run of this line."""

    @contextmanager
    def _as_log_error(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise LogError(f"{self._tool} refused: {safe(' '.join(str(error).split()), 500)}") from error

    def write(self, line: Line, /) -> None:
        """Write a line to its run."""
        if self._closed:
            raise LogError(f"The {self._outputs} are closed.")
        key = line.run_id, line.rank
        with self._as_log_error():
            if key not in self._runs:
                self._runs[key] = self._run(line)
            self._runs[key].write(line)

    def flush(self) -> None:
        """Make what was written visible to others."""
        for run in self._runs.values():
            run.flush()

    def close(self) -> None:
        """Complete the runs."""
        if not self._closed:
            self._closed = True
            with self._as_log_error():
                for run in self._runs.values():
                    run.close()


def export(lines: Iterable[Line], exporter: Exporter) -> int:
    """Write lines to an exporter, close it, and return their number.

    Of a run of several ranks the lines of one are written: of rank 0, whose line a merged log begins with.
    """
    count = 0
    ranks: dict[str, int] = {}
    with exporter:
        for line in lines:
            if ranks.setdefault(line.run_id, line.rank) == line.rank:
                exporter.write(line)
                count += 1
    return count
