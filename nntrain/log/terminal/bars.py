"""Progress bars for fits that run: rich's `Progress`, with what the log says in place of what rich would estimate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn
from rich.table import Column
from rich.text import Text

from nntrain.log.line import Line
from nntrain.log.terminal import words
from nntrain.log.terminal.gauge import Gauge
from nntrain.log.terminal.screen import Printable, Screen, marked
from nntrain.log.text import one_line

QUIET_S: Final = 30.0
"""After how many seconds without a line it is said that none came."""


@dataclass
class Bar:
    """What the bar of a run shows. `mark` is the name of the run if there are several."""

    clock: Callable[[], float] = time.monotonic
    gauge: Gauge = field(default_factory=Gauge)
    updated: float = 0.0
    mark: str = ""

    def add(self, line: Line) -> None:
        """Update from the next line of the run."""
        self.gauge.add(line)
        self.updated = self.clock()

    def left(self) -> str:
        """Return the time left: the estimate at the last line, less the time since then."""
        left = self.gauge.left_s
        if left is None:
            return ""
        return f"{words.duration(max(0.0, left - (self.clock() - self.updated)), places=0)} left"

    def place(self) -> Text:
        """Return the run's mark, the epoch and the phase."""
        return marked(
            self.mark, Text(f"epoch {words.whole(self.gauge.epoch)} {one_line(self.gauge.phase, 24):<5}", style="bold")
        )

    def figures(self) -> Text:
        """Return the time left or the silence, the loss, the rate and the metrics: what matters most comes first."""
        gauge = self.gauge
        rate = gauge.samples_per_s
        quiet = self.clock() - self.updated
        parts = [
            Text(f"no line for {words.duration(quiet, places=0)}", style="yellow")
            if quiet >= QUIET_S
            else Text(self.left(), style="cyan"),
            Text("" if gauge.loss is None else f"loss {words.number(gauge.loss)}", style="green"),
            Text("" if rate is None else f"{words.whole(rate)} samples/s", style="magenta"),
            *(Text(f"{one_line(name, 24)} {words.number(value)}") for name, value in gauge.metrics.items()),
        ]
        return Text("  ").join(part for part in parts if part)


class _BarText(ProgressColumn):
    """A column of text about a bar. On a narrow console its end is cut off."""

    def __init__(self, text: Callable[[Bar], Text], ratio: int | None = None) -> None:
        super().__init__(Column(no_wrap=True, ratio=ratio))
        self._text = text

    def render(self, task: Task) -> Text:
        """Return the text for the bar of a task."""
        return self._text(task.fields["bar"])


class Bars(Progress):
    """The bars of the runs, one line each, below what is printed."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(
            _BarText(Bar.place),
            BarColumn(table_column=Column(ratio=1)),
            TaskProgressColumn(),
            _BarText(Bar.figures, ratio=6),
            console=screen.console,
            expand=True,
            transient=True,
            refresh_per_second=5,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the table of the visible bars, or an empty text: rich cannot erase a table without rows cleanly."""
        table = self.make_tasks_table(self.tasks)
        yield Printable(table) if table.row_count else Text(end="")
