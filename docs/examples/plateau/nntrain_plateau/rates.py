"""The learning rate of each epoch, as a file."""

from __future__ import annotations

import csv
from pathlib import Path

from nntrain import Interest, Transition


class RatesFile:
    """Append a row for each finished train phase to the comma-separated file at `path`: epoch, step, learning rate."""

    interest = Interest(every_batch=False)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, transition: Transition, /) -> None:
        """Write a row where a train phase has ended."""
        stats, progress = transition.stats, transition.progress
        if stats is None or stats.phase != "train":
            return
        rate = transition.run.lr_at(max(progress.step - 1, 0)) * transition.state.lr_scale
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([progress.epoch, progress.step, rate])
