"""The table of finished phases, row by row: its columns keep their places whatever comes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from nntrain.log.terminal import words
from nntrain.log.text import as_float
from nntrain.values.history import EpochStats

_GAP: Final = 2
_NONE: Final = "–"
_LEAST: Final = {"epoch": 5, "loss": 7, "samples": 7, "samples/s": 9, "seconds": 7}
_SPARED: Final = ("samples", "samples/s", "seconds")
"""What a narrow console does without, the first first."""


@dataclass(frozen=True)
class Column:
    """A column: its key (that of `cells`), its heading, and its width in cells."""

    key: str
    heading: str
    width: int


class Phases:
    """The columns for some metrics, in `parts` of which each is as wide as fits: the first has all but more metrics."""

    def __init__(self, metrics: Sequence[str], width: int, rows: Iterable[EpochStats] = ()) -> None:
        headings = {f"metric {metric}": words.name(metric) for metric in metrics}
        widths = {key: max(7, cell_len(heading)) for key, heading in headings.items()} | dict(_LEAST)
        for stats in rows:
            for key, cell in cells(stats).items():
                widths[key] = max(widths.get(key, 0), cell_len(cell))
        column = {key: Column(key, headings.get(key, key), width) for key, width in widths.items()}
        place = [column["epoch"], Column("phase", "phase", 5)]
        tail = [column[key] for key in _SPARED]
        of_metrics = [column[key] for key in headings]
        while tail and _width([*place, column["loss"], *of_metrics[:1], *tail]) > width:
            tail = tail[1:]
        first, rest = _fitting(of_metrics, width - _width([*place, column["loss"], *tail]))
        self.parts: list[list[Column]] = [[*place, column["loss"], *first, *tail]]
        while rest:
            first, rest = _fitting(rest, width - _width(place))
            self.parts.append([*place, *first])

    @property
    def left_out(self) -> list[str]:
        """The headings of the metrics that are not in the first part."""
        return [column.heading for part in self.parts[1:] for column in part[2:]]


def heading(part: Sequence[Column]) -> Text:
    """Give the line of the headings."""
    return Text(_joined((column, column.heading) for column in part), style="bold")


def row(part: Sequence[Column], stats: EpochStats) -> Text:
    """Give the line of a phase; a value that is not finite stands out."""
    found = cells(stats)
    text = Text(style="" if stats.phase == "eval" else "dim")
    for index, column in enumerate(part):
        cell = found.get(column.key, _NONE)
        style = "bold red not dim" if cell in {"nan", "inf", "-inf"} else ""
        text.append(_aligned(column, cell, first=index == 0), style=style)
    return text


def cells(stats: EpochStats) -> dict[str, str]:
    """Give what stands in a phase's row, by the keys of its columns."""
    took = stats.seconds
    known = math.isfinite(took) and took > 0
    return {
        "epoch": words.whole(stats.epoch),
        "phase": stats.phase,
        "loss": words.number(stats.loss),
        **{f"metric {name}": words.number(value) for name, value in stats.metrics.items()},
        "samples": words.whole(stats.samples),
        "samples/s": words.whole(as_float(stats.samples) / took) if known else _NONE,
        "seconds": words.seconds(took),
    }


def _fitting(columns: Sequence[Column], width: int) -> tuple[list[Column], list[Column]]:
    """Take the columns that fit, one at least."""
    count = 0
    used = 0
    for column in columns:
        used += _GAP + column.width
        if count and used > width:
            break
        count += 1
    return [*columns[:count]], [*columns[count:]]


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _joined(found: Iterable[tuple[Column, str]]) -> str:
    return "".join(_aligned(column, cell, first=index == 0) for index, (column, cell) in enumerate(found))


def _aligned(column: Column, cell: str, *, first: bool) -> str:
    """Give a cell at its width, numbers at the right of it, with the gap before it."""
    gap = "" if first else " " * _GAP
    if column.key == "phase":
        return gap + set_cell_size(cell, column.width)
    return gap + " " * max(0, column.width - cell_len(cell)) + cell


def metrics_of(history: Iterable[EpochStats]) -> Iterator[str]:
    """Yield the names of the metrics, in the order in which they come up."""
    seen: set[str] = set()
    for stats in history:
        for name in stats.metrics:
            if name not in seen:
                seen.add(name)
                yield name
