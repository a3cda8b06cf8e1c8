"""The bar of a fit: one line, as wide as the console."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nntrain.log.line import Line
from nntrain.log.terminal import words
from nntrain.log.terminal.gauge import Gauge

_SHORTEST: Final = 8
_LONGEST: Final = 40


@dataclass
class Bar:
    """A run's bar: its gauge, the mark of its run where there are several, and when it was last heard of."""

    clock: Callable[[], float] = time.monotonic
    gauge: Gauge = field(default_factory=Gauge)
    heard: float = 0.0

    def hear(self, line: Line) -> None:
        """Take one more line."""
        self.gauge.hear(line)
        self.heard = self.clock()

    def left(self) -> str:
        """Say how much time is left: as the last line had it, less what has gone by since."""
        left = self.gauge.left_s
        if left is None:
            return ""
        return f"{words.duration(max(0.0, left - (self.clock() - self.heard)), places=0)} left"

    def drawn(self, width: int, mark: str = "") -> Table:
        """Draw it: where, the bar, how much of it, rate, time left, loss, and as many metrics as there is room for."""
        gauge = self.gauge
        where = f"epoch {words.whole(gauge.epoch)} {gauge.phase:<5}"
        begun = Text.assemble((f"{mark}  " if mark else "", "cyan"), (where, "bold"))
        rate = gauge.samples_per_s
        said = [
            Text(f"{gauge.done:4.0%}"),
            Text(self.left(), style="cyan"),
            Text("" if gauge.loss is None else f"loss {words.number(gauge.loss)}", style="green"),
            Text("" if rate is None else f"{words.whole(rate)} samples/s", style="magenta"),
            *(Text(f"{words.name(name)} {words.number(value)}") for name, value in gauge.metrics.items()),
        ]
        room = width - begun.cell_len - 2 - _SHORTEST
        shown: list[Text] = []
        for text in said:
            if text.cell_len + 2 > room:
                break
            if text.plain:
                room -= text.cell_len + 2
                shown.append(text)
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(len(shown) + 2):
            grid.add_column(no_wrap=True)
        length = max(1, min(_LONGEST, _SHORTEST + max(0, room)))
        grid.add_row(begun, ProgressBar(total=1.0, completed=gauge.done, width=length), *shown)
        return grid
