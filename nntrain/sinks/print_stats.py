"""The printed line, one for each finished phase."""

from __future__ import annotations

import sys
from typing import Final, TextIO

from nntrain.sinks.interest import Interest
from nntrain.sinks.transition import Transition
from nntrain.values.history import EpochStats


class PrintStats:
    """Print `epoch=00 | train | loss=2.177 | metric=0.218` for each finished phase.

    `file` is where to; stdout, as it is at that moment, by default.
    """

    interest: Final = Interest(places={"batch"}, every_batch=False)
    """The statistics are finished at the end of the batches."""

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = file

    def __call__(self, transition: Transition, /) -> None:
        """Print the line of a phase that is finished."""
        if transition.stats is not None:
            print(stats_line(transition.stats), file=self.file or sys.stdout, flush=True)


def stats_line(stats: EpochStats) -> str:
    """Return the line of one phase: the epoch, the phase padded to five, loss and metrics to three places."""
    values = {"loss": stats.loss, **stats.metrics}
    return " | ".join(
        [
            f"epoch={stats.epoch:02d}",
            f"{stats.phase:<5}",
            *(f"{name}={value:.3f}" for name, value in values.items()),
        ]
    )
