"""The histograms of activations over a training: for each layer of a run a picture, a column for each look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nntrain.log.report.run_view import RunView
from nntrain.log.text import number, one_line
from nntrain.values.looks import Activations

MOST_LAYERS: Final = 24
"""The most pictures of a run, and of a page ten times as many."""
_MOST_COLUMNS: Final = 60
_LEVELS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Histograms:
    """The histograms of one layer of a run: the greatest value of their bins, and a column for each look.

    A column has a character for each bin, from the lowest values: how dark it is, 0 to z, by its logarithm.
    """

    run: int
    layer: str
    high: str
    columns: tuple[str, ...]


def histograms(runs: Sequence[RunView]) -> tuple[Histograms, ...]:
    """Return the histograms of the layers of runs; of many looks some, evenly spread, and the last."""
    found: list[Histograms] = []
    for one in runs:
        looks = [line.event for line in one.run.looks if isinstance(line.event, Activations)]
        step = math.ceil(len(looks) / _MOST_COLUMNS) or 1
        layers: dict[str, list[str]] = {}
        for look in looks[::-1][::step][::-1]:
            for layer in look.layers:
                layers.setdefault(layer.layer, []).append(_column(layer.histogram))
        for name, columns in list(layers.items())[:MOST_LAYERS]:
            found.append(Histograms(one.index, one_line(name, 40), number(looks[-1].high), tuple(columns)))
    return tuple(found[: 10 * MOST_LAYERS])


def _column(counts: Sequence[int]) -> str:
    most = math.log1p(max(counts, default=0)) or 1.0
    return "".join(_LEVELS[round((len(_LEVELS) - 1) * math.log1p(count) / most)] for count in counts[:200])
