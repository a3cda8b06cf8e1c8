"""Tables of finished phases, as wide as the console allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from nntrain.log.terminal import words
from nntrain.log.text import as_float, one_line
from nntrain.values.history import EpochStats

_GAP: Final = 2
_METRIC: Final = "metric "
"""What the keys of metrics start with: a metric may have the name of another column."""
_LEAST: Final = {"epoch": 5, "phase": 5, "loss": 7, "samples": 7, "samples/s": 9, "seconds": 7}
_PLACE: Final = ("epoch", "phase")

Columns = Mapping[str, int]
"""The columns of a table: their keys, and how wide they are at least."""


def layout(metrics: Iterable[str], width: int, rows: Iterable[EpochStats] = ()) -> list[Columns]:
    """Return the columns of the tables that together show all metrics on a console `width` cells wide.

    The first table has the loss, as many metrics as fit, the samples and the times; a narrow console has no room for
    all of these last ones.
    """
    longest = width - _total(_LEAST, _PLACE) - _GAP
    keys = {f"{_METRIC}{name}": max(7, min(longest, cell_len(_heading(name)))) for name in metrics}
    widths = _LEAST | keys
    for stats in rows:
        for key, cell in _cells(stats).items():
            widths[key] = max(widths[key], cell_len(cell))
    tail = ["samples", "samples/s", "seconds"]
    while tail and _total(widths, [*_PLACE, "loss", *[*keys][:1], *tail]) > width:
        tail.pop(0)
    tables = [[*_PLACE, "loss"]]
    for key in keys:
        after = tail if len(tables) == 1 else []
        if len(tables[-1]) > len(_PLACE) and _total(widths, [*tables[-1], key, *after]) > width:
            tables.append([*_PLACE])
        tables[-1].append(key)
    tables[0] += tail
    return [{key: widths[key] for key in table} for table in tables]


def table(columns: Columns, rows: Iterable[EpochStats], *, header: bool = True, mark: str = "") -> Table:
    """Return a table of phases, with the mark of their run in front if there is one.

    Tables of the same columns can be printed one below the other, row by row.
    """
    made = Table(box=None, padding=(0, _GAP, 0, 0), show_header=header, header_style="bold")
    front = [Text(mark, style="not bold not dim cyan")] if mark else []
    for text in front:
        made.add_column(text)
    for key, width in columns.items():
        heading = Text(_heading(key.removeprefix(_METRIC)))
        heading.truncate(width, overflow="ellipsis")
        made.add_column(heading, justify="left" if key == "phase" else "right", min_width=width, no_wrap=True)
    for stats in rows:
        found = _cells(stats)
        cells = [_cell(found.get(key, "–")) for key in columns]
        made.add_row(*front, *cells, style="dim" if stats.phase == "train" else "")
    return made


def _cell(text: str) -> Text:
    """Return the text of a cell; a number that is not finite stands out."""
    return Text(text, style="bold red not dim" if text in {"nan", "inf", "-inf"} else "")


def _cells(stats: EpochStats) -> dict[str, str]:
    """Return what a phase has in each column, by key."""
    seconds = stats.seconds
    known = math.isfinite(seconds) and seconds > 0
    return {
        "epoch": words.whole(stats.epoch),
        "phase": one_line(stats.label, 24),
        "loss": words.number(stats.loss) if stats.has_loss else "–",
        **{f"{_METRIC}{name}": words.number(value) for name, value in stats.metrics.items()},
        "samples": words.whole(stats.samples),
        "samples/s": words.whole(as_float(stats.samples) / seconds) if known else "–",
        "seconds": words.whole(seconds, places=2 if seconds < 1000 else 0),
    }


def _heading(name: str) -> str:
    return one_line(name, 24)


def _total(widths: Columns, keys: Iterable[str]) -> int:
    """Return how wide a table of some columns is."""
    return sum(widths[key] + _GAP for key in keys) - _GAP
