"""The confusion matrices of runs, as tables that need no script: the darker a cell, the greater its share of a row."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from typing import Final

from nntrain.log.replay import Run
from nntrain.log.report.markup import Child, row, table, tag
from nntrain.log.report.run_view import RunView
from nntrain.log.report.symbols import swatch
from nntrain.log.text import number, one_line, whole
from nntrain.values.looks import ConfusionMatrix

_MOST_RUNS: Final = 10
_MOST_CLASSES: Final = 30


def confusion_matrices(runs: Sequence[RunView]) -> tuple[Child, ...]:
    """Return the last confusion matrix of each set of each run, folded; none if no run has one."""
    found = [(one, *last) for one in runs for last in _last(one.run)]
    made = [_matrix(*one, is_open=len(found) == 1) for one in found[:_MOST_RUNS]]
    if len(found) > _MOST_RUNS:
        return (*made, tag("p", f"Of {len(found):,} matrices the first {_MOST_RUNS} are shown.", class_="note"))
    return tuple(made)


def _last(run: Run) -> Iterator[tuple[str, ConfusionMatrix]]:
    latest: dict[str, tuple[int, ConfusionMatrix]] = {}
    for line in run.events:
        if isinstance(line.event, ConfusionMatrix):
            latest[line.label] = (line.epoch, line.event)
    for label, (epoch, matrix) in latest.items():
        yield f"{one_line(label, 40)}, epoch {whole(epoch)}", matrix


def _matrix(one: RunView, where: str, matrix: ConfusionMatrix, *, is_open: bool) -> ET.Element:
    labels = [one_line(name, 24) for name in matrix.labels[:_MOST_CLASSES]]
    rows = []
    for name, counts in zip(labels, matrix.counts, strict=False):
        total = sum(counts) or 1
        cells = [_cell(count, count / total) for count in counts[:_MOST_CLASSES]]
        rows.append(row(name, *cells))
    named = tag("span", swatch(one.colour), tag("span", one.name), class_="run")
    summary = tag("summary", named, f" · {where} · {number(100 * matrix.accuracy)} % right")
    left = len(matrix.labels) - _MOST_CLASSES
    note = tag("p", f"{left:,} more classes are left out; the log has all.", class_="note") if left > 0 else None
    made = table(["target \\ taken for", *labels], rows, f"Confusion of {one.name}", class_="matrix")
    return tag("details", summary, made, note, open=is_open, data_of=str(one.index))


def _cell(count: int, share: float) -> ET.Element:
    return tag("td", whole(count), class_=f"tenths-{math.ceil(10 * share)}" if count else None)
