"""The printed line, to the letter."""

from __future__ import annotations

import io
import math

import pytest

from nntrain import EpochStats, PrintStats
from nntrain.sinks.print_stats import stats_line
from nntrain.values.progress import Phase
from nntrain.values.record import FrozenMapping


@pytest.mark.parametrize(
    ("epoch", "phase", "loss", "metrics", "line"),
    [
        (0, "train", 2.1771, {"metric": 0.2179}, "epoch=00 | train | loss=2.177 | metric=0.218"),
        (0, "eval", 1.2, {"metric": 1.0}, "epoch=00 | eval  | loss=1.200 | metric=1.000"),
        (123, "eval", math.nan, {}, "epoch=123 | eval  | loss=nan"),
        (4, "train", 12345.6789, {"acc": 0.5, "f1": 0.25}, "epoch=04 | train | loss=12345.679 | acc=0.500 | f1=0.250"),
    ],
)
def test_the_line(epoch: int, phase: Phase, loss: float, metrics: dict[str, float], line: str) -> None:
    stats = EpochStats(epoch=epoch, phase=phase, loss=loss, metrics=FrozenMapping(metrics), samples=1, batches=1)
    assert stats_line(stats) == line


def test_it_writes_to_a_file_of_ones_own() -> None:
    file = io.StringIO()
    assert PrintStats(file).file is file
