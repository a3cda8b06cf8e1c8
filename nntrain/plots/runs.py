"""What is drawn of runs: the curves of a number, whatever the runs are given as."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from nntrain.errors import ConfigError
from nntrain.log.events import BatchFinished
from nntrain.log.reading import read
from nntrain.log.replay import Run, replay
from nntrain.log.report.series import by_batch, loss
from nntrain.values.history import EpochStats, History
from nntrain.values.state import TrainState
from nntrain.values.verdicts import Cancelled, Completed

OneRun = TrainState | Completed | Cancelled | History | Run | str | os.PathLike[str]
"""A state, an outcome, a history, a `nntrain.log.Run`, or the path of a log, which may have several runs."""
Runs = OneRun | Sequence[OneRun] | Mapping[str, OneRun]
"""One run, or several, which a mapping names."""
By = Literal["epoch", "batch"]

POINTS: Final = 2000
"""Into so many parts a long curve of batches is divided: of each the least and the greatest are drawn."""


@dataclass(frozen=True)
class Named:
    """A run and its name: its history, or all that its log says."""

    name: str
    run: History | Run

    @property
    def history(self) -> History:
        """Its finished phases."""
        return self.run.history if isinstance(self.run, Run) else self.run


@dataclass(frozen=True)
class Curve:
    """A number of one phase of a run: `y` at `x` epochs. `of` is the run's place among those that are drawn."""

    of: int
    label: str
    """The phase, or the set's name."""
    x: Sequence[float]
    y: Sequence[float]


def named_runs(runs: Runs) -> list[Named]:
    """Return the runs with names of their own. Raises `ConfigError` for what is no run, and `LogReadError`."""
    found = [*_named(runs)]
    if not found:
        raise ConfigError("There are no runs to draw: expected a state, an outcome, a log's path, or several of them.")
    count = Counter(one.name for one in found)
    return [
        one if count[one.name] == 1 else Named(f"{one.name} ({place})", one.run)
        for place, one in enumerate(found, start=1)
    ]


def _named(runs: Runs) -> Iterator[Named]:
    if isinstance(runs, Mapping):
        for name, one in runs.items():
            found = [*_one(one, str(name))]
            yield from (
                (Named(str(name), found[0].run),)
                if len(found) == 1
                else (Named(f"{name}: {each.name}", each.run) for each in found)
            )
    elif isinstance(runs, Sequence) and not isinstance(runs, (str, History)):
        for place, one in enumerate(runs, start=1):
            yield from _one(one, f"run {place}")
    else:
        yield from _one(runs, "run")


def _one(run: OneRun, name: str) -> Iterator[Named]:
    if isinstance(run, (Completed, Cancelled)):
        run = run.state
    if isinstance(run, (TrainState, History)):
        yield Named(name, run.history if isinstance(run, TrainState) else run)
    elif isinstance(run, Run):
        yield Named(run.run_id[-8:], run)
    elif isinstance(run, (str, os.PathLike)):
        found = replay(read(run))
        if not found:
            raise ConfigError(f"The log {os.fspath(run)} has no run yet: it is empty.")
        stem = Path(run).stem
        yield from (Named(stem if len(found) == 1 else f"{stem}: {one.run_id[-8:]}", one) for one in found)
    else:
        raise ConfigError(
            f"A {type(run).__name__} is no run; expected a state, an outcome, a history, the path of a log, or a Run, "
            f"as of replay(read(path))."
        )


def curves_of(runs: Sequence[Named], name: str, by: By) -> list[Curve]:
    """Return the curves of a number, "loss" or a metric's name, of the runs that have it.

    Raises `ConfigError` where none of them has it, but others; and by batch for a run that is no log's.
    """
    if by not in {"epoch", "batch"}:
        raise ConfigError(f"by is {by!r}; expected 'epoch' or 'batch'.")
    found = [
        curve
        for of, one in enumerate(runs)
        for curve in (_by_epoch(of, one.history, name) if by == "epoch" else _by_batch(of, one, name))
    ]
    if not found:
        there = sorted({known for one in runs for known in _names(one, by)})
        if there:
            raise ConfigError(f"No run has a number {name!r} by {by}; there are {', '.join(there)}.")
    return found


def _by_epoch(of: int, history: History, name: str) -> Iterator[Curve]:
    for label in dict.fromkeys(stats.label for stats in history):
        points = [
            (stats.epoch + 1.0, y)
            for stats in history
            if stats.label == label and (y := _in_phase(stats).get(name)) is not None
        ]
        if points:
            yield Curve(of, label, *zip(*points, strict=True))


def _by_batch(of: int, one: Named, name: str) -> Iterator[Curve]:
    if not isinstance(one.run, Run):
        raise ConfigError(
            f"{one.name} has no numbers by batch: a state keeps those of phases. Give the path of its log, "
            f"JsonLog(path, every=1)."
        )
    value: Callable[[BatchFinished], float | None] = lambda event: _in_batch(event).get(name)  # noqa: E731
    for series in by_batch(one.run, value, POINTS):
        yield Curve(of, series.phase, [point.x for point in series.points], [point.y for point in series.points])


def _in_phase(stats: EpochStats) -> Mapping[str, float]:
    said = loss(stats)
    return {**({} if said is None else {"loss": said}), "seconds": stats.seconds, **stats.metrics}


def _in_batch(event: BatchFinished) -> Mapping[str, float]:
    said = {"loss": loss(event), "lr": event.lr, "samples_per_s": event.samples_per_s}
    of_groups = {f"lr/{group}": lr for group, lr in (event.group_lrs or {}).items()}
    return {**{name: value for name, value in said.items() if value is not None}, **of_groups, **event.metrics}


def _names(one: Named, by: By) -> set[str]:
    if by == "epoch":
        return {name for stats in one.history for name in _in_phase(stats)}
    lines = one.run.batches if isinstance(one.run, Run) else ()
    return {name for line in lines if isinstance(line.event, BatchFinished) for name in _in_batch(line.event)}
