"""What every exporter is: a target of lines, live or after the fact."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from nntrain.log.line import Line
from nntrain.log.targets import Target


class Exporter(Target):
    """A projection of a log's lines into another tool's format.

    Give one to a log beside its file, and it is written while the training runs; or give it a log's lines afterwards,
    with `export`. Lines of any run and rank may come, in the order of their log. `close` completes what was written;
    after it nothing is to be written.

    Raises `OSError` (a `LogError` among them) from `write` and `close` where the other side fails, and
    `MissingExtraError` when it is made where its package is not installed.
    """

    @abstractmethod
    def close(self) -> None:
        """Bring out everything, and let go of files and services. Once closed, it stays closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def export(lines: Iterable[Line], exporter: Exporter) -> int:
    """Write lines to an exporter, close it, and give their count."""
    count = 0
    with exporter:
        for line in lines:
            exporter.write(line)
            count += 1
    return count
