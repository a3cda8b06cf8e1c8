"""The printed line, one for each finished phase, and one of a loss that stayed NaN."""

from __future__ import annotations

import sys
from typing import Final, TextIO

from nntrain.ranks.console import is_spokesman
from nntrain.sinks.interest import Interest
from nntrain.sinks.progress_bar import above_bars
from nntrain.sinks.transition import Transition
from nntrain.values.history import EpochStats
from nntrain.values.log_event import NOT_FINITE, WarningEvent


class PrintStats:
    """Print `epoch=00 | train | loss=2.177 | metric=0.218` for each finished phase.

    Of a set that has a name, that stands in the place of `eval`.

    At the end of a fit whose loss stayed NaN or infinite, it prints a line that says so, and what may help.

    `file` is where to; stdout, as it is at that moment, by default. On a terminal the line stands above progress bars.
    Of several processes that train together rank 0 prints; the statistics are those of all.
    """

    interest: Final = Interest(every_batch=False)
    """The statistics are finished at the end of the batches; a fit may end anywhere."""

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = file

    def __call__(self, transition: Transition, /) -> None:
        """Print the line of a phase that is finished."""
        if not is_spokesman():
            return
        if transition.stats is not None:
            self._print(stats_line(transition.stats))
        for event in transition.logged:
            if isinstance(event, WarningEvent) and event.code == NOT_FINITE:
                self._print(f"warning: {event.text}")

    def _print(self, line: str) -> None:
        file = self.file or sys.stdout
        with above_bars(file):
            print(line, file=file, flush=True)


def stats_line(stats: EpochStats) -> str:
    """Return the line of one phase: the epoch, the phase or the set's name, padded to five, loss and metrics to three
    places."""
    values = {**({"loss": stats.loss} if stats.has_loss else {}), **stats.metrics}
    return " | ".join(
        [
            f"epoch={stats.epoch:02d}",
            f"{stats.label:<5}",
            *(f"{name}={value:.3f}" for name, value in values.items()),
        ]
    )
