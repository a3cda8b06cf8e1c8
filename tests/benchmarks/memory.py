"""What nntrain holds in memory beside the hand-written loop: `python -m tests.benchmarks.memory`.

Each run has a process of its own (`footprint`). The first table has its peak of resident memory: of the whole process,
most of which is torch itself in a small training, and above what it held with the data alone, before the model. The
second has what is left to grow over a long training, and over many fits, after a warm-up of a tenth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from tests.benchmarks.footprint import OPTIMIZERS, WIDTHS
from tests.benchmarks.report import cells, heading, table
from tests.benchmarks.rounds import Ratio

HAND: Final = "hand-written"
PEAK_LOOPS: Final = (HAND, "nntrain", "nntrain, model made by a function")
FIT_LOOPS: Final = (HAND, "nntrain", "nntrain, one learner for all")
GROWTHS: Final = ("steps", "fits")


def footprint(*arguments: object) -> dict[str, float]:
    """Run one measure in a fresh interpreter."""
    command = [sys.executable, "-m", "tests.benchmarks.footprint", *map(str, arguments)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def peaks(rounds: int, models: Sequence[str], optimizers: Sequence[str], loops: Sequence[str], batches: int) -> str:
    """Give the table of peaks."""
    rows = []
    for model in models:
        for optimizer in optimizers:
            runs = [{loop: footprint("peak", loop, model, optimizer, batches) for loop in loops} for _ in range(rounds)]
            whole = {loop: [run[loop]["peak"] for run in runs] for loop in loops}
            above = {loop: [run[loop]["peak"] - run[loop]["before"] for run in runs] for loop in loops}
            rows += [
                [
                    f"{model}, {optimizer}: {loop}",
                    *cells(Ratio.of(whole[loop], whole[HAND])),
                    f"{statistics.median(whole[loop]):,.0f}",
                    f"{statistics.median(above[loop]):,.0f}",
                    f"{Ratio.of(above[loop], above[HAND]).median:.3f}",
                ]
                for loop in loops
            ]
    return table(["run", "peak: ratio", "lowest", "highest", "MiB", "above the data, MiB", "ratio of these"], rows)


def grown(kind: str, loops: Sequence[str], count: int) -> list[list[str]]:
    """Give the rows of what grows over so many steps, or fits."""
    rows = []
    for loop in loops:
        run = footprint(kind, loop, count)
        rows.append(
            [
                f"{count:,} {kind}: {loop}",
                f"{run['after'] / run['before']:.3f}",
                f"{run['before']:,.1f}",
                f"{run['after']:,.1f}",
                f"{run['tensors_before']:,.0f}",
                f"{run['tensors_after']:,.0f}",
            ]
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each peak is taken (default 3)")
    parser.add_argument("--batches", type=int, default=8, help="of the epoch whose peak is taken (default 8)")
    parser.add_argument("--models", nargs="+", choices=tuple(WIDTHS), default=tuple(WIDTHS))
    parser.add_argument("--optimizers", nargs="+", choices=tuple(OPTIMIZERS), default=tuple(OPTIMIZERS))
    parser.add_argument("--grow", nargs="*", choices=GROWTHS, default=GROWTHS, help="what to take the growth over")
    parser.add_argument("--steps", type=int, default=10_000, help="of the long training (default 10000)")
    parser.add_argument("--fits", type=int, default=200, help="in one process (default 200)")
    parser.add_argument("--short", action="store_true", help="leave out the rows of nntrain's other ways of use")
    options = parser.parse_args(argv)
    kept = 2 if options.short else None
    print(heading(threads=1))
    print(f"peak of resident memory, {options.batches} batches of 64, {options.rounds} rounds, a process each")
    print(peaks(options.rounds, options.models, options.optimizers, PEAK_LOOPS[:kept], options.batches))
    rows = []
    if "steps" in options.grow:
        rows += grown("steps", PEAK_LOOPS[:2], options.steps)
    if "fits" in options.grow:
        rows += grown("fits", FIT_LOOPS[:kept], options.fits)
    if rows:
        print()
        print("resident memory and live tensors after a warm-up and at the end, a process each")
        print(table(["run", "end / beginning", "MiB", "MiB at the end", "tensors", "tensors at the end"], rows))


if __name__ == "__main__":
    main()
