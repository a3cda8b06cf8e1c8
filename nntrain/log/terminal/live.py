"""`nntrain log follow`: runs while their lines come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from rich.progress import TaskID
from rich.text import Text

from nntrain.log.events import OWN, EpochFinished, FitStarted, RunFailed, RunFinished
from nntrain.log.following import Waiting
from nntrain.log.line import Line
from nntrain.log.replay import RunFold, is_echo, replay, stats_of
from nntrain.log.terminal import entries, words
from nntrain.log.terminal.bars import QUIET_S, Bar, Bars
from nntrain.log.terminal.phases import Columns, layout, table
from nntrain.log.terminal.screen import Screen, marked
from nntrain.values.history import EpochStats

_MAY_MEAN: Final = (
    "a batch that takes long, a training that logs no batches (--log-every none), one that waits for data or saves, or "
    "one that was killed: look whether its process still runs"
)
_MARK: Final = 6
"""How many characters of the end of a run's id mark what is printed of it."""


def follow_runs(lines: Iterable[Line | Waiting], screen: Screen) -> None:
    """Print lines as they come, until there are no more."""
    bars = Bars(screen)
    following = _Following(screen, bars)
    with bars if screen.console.is_interactive else nullcontext():
        for one in lines:
            if isinstance(one, Line):
                following.add(one)
            else:
                following.wait(one)
    following.end()


@dataclass
class _Followed:
    """A run that is followed. `metrics` and `columns` are those of the last row that was printed."""

    fold: RunFold
    bar: Bar
    task: TaskID
    ended: bool = False
    metrics: tuple[str, ...] = ()
    columns: Columns = field(default_factory=dict)
    other_names: Counter[str] = field(default_factory=Counter)


class _Following:
    """The runs that are followed, by id."""

    def __init__(self, screen: Screen, bars: Bars) -> None:
        self._screen = screen
        self._bars = bars
        self._runs: dict[str, _Followed] = {}
        self._quiet_from = 0.0
        """The seconds of silence from which it is said next; after a line it is `QUIET_S` again."""

    def wait(self, waiting: Waiting) -> None:
        """Say that no line came, at once where there is no file, else after `QUIET_S` and each time twice as long."""
        if waiting.seconds < self._quiet_from:
            return
        self._quiet_from = max(QUIET_S, 2 * waiting.seconds)
        if not waiting.there:
            self._screen.entry("waiting", Text("for the log, which is not there yet"))
        elif waiting.seconds >= QUIET_S:
            self._screen.entry("quiet", Text(f"no line for {words.duration(waiting.seconds, places=0)}: {_MAY_MEAN}"))

    def add(self, line: Line) -> None:
        """Print what the next line says; of a run of many processes what the lowest rank says, and others' failures."""
        self._quiet_from = QUIET_S
        run = self._runs.get(line.run_id) or self._begin(line)
        rank = run.fold.last.rank
        if line.rank > rank:
            if isinstance(line.event, RunFailed) and not is_echo(line.event):
                entries.write_event(self._screen, "failure", line, f"{run.bar.mark} rank {line.rank}".strip())
            return
        if line.rank < rank:
            run.fold = RunFold(line, keep_lines=False)
        missing = run.fold.missing
        run.fold.add(line)
        run.bar.add(line)
        entries.write_lost(self._screen, run.fold.missing - missing, run.bar.mark)
        self._write(run, line)
        # A bar that appears or disappears is drawn at once: if rich's thread did it while a row is printed, rich would
        # move the cursor up by a wrong number of lines.
        redraw = isinstance(line.event, FitStarted | EpochFinished | RunFailed | RunFinished)
        done, visible = run.bar.gauge.done, not run.ended and run.bar.gauge.has_goal
        self._bars.update(run.task, completed=done, visible=visible, refresh=redraw)

    def end(self) -> None:
        """Print how far the runs are that have not ended."""
        for run in self._runs.values():
            self._end(run)

    def _begin(self, line: Line) -> _Followed:
        """Print what a new run is. If it is not the first, all runs get a mark."""
        if self._runs:
            self._screen.write(Text())
        entries.write_facts(self._screen, replay([line])[0])
        bar = Bar()
        task = self._bars.add_task("", total=1.0, visible=False, bar=bar)
        begun = self._runs[line.run_id] = _Followed(RunFold(line, keep_lines=False), bar, task)
        if len(self._runs) > 1:
            alike = Counter(run_id[-_MARK:] for run_id in self._runs)
            for run_id, run in self._runs.items():
                run.bar.mark = run_id[-_MARK:] if alike[run_id[-_MARK:]] == 1 else run_id
        return begun

    def _write(self, run: _Followed, line: Line) -> None:
        event = line.event
        if isinstance(event, FitStarted):
            run.ended = False
        elif isinstance(event, EpochFinished):
            self._write_phase(run, stats_of(line, event))
        elif not isinstance(event, OWN):
            run.other_names[event.event] += 1
        kind = entries.kind_of(line)
        if kind is not None:
            entries.write_event(self._screen, kind, line, run.bar.mark)
        if isinstance(event, RunFailed | RunFinished):
            self._end(run)

    def _write_phase(self, run: _Followed, stats: EpochStats) -> None:
        """Print the row of a finished phase, below a header if its columns are new."""
        mark, metrics = run.bar.mark, tuple(stats.metrics)
        if not run.columns or metrics != run.metrics:
            run.metrics = metrics
            run.columns, *others = layout(metrics, self._screen.console.width - marked(mark, Text()).cell_len)
            self._screen.write(table(run.columns, (), mark=mark), wrap=False)
            if others:
                left_out = len({*chain(*others)} - {*run.columns})
                more = f"{words.counted(left_out, 'more metric')}: nntrain log show has them"
                self._screen.write(marked(mark, Text(more, style="dim")))
        self._screen.write(table(run.columns, [stats], header=False, mark=mark), wrap=False)

    def _end(self, run: _Followed) -> None:
        """Print how a run ended, once."""
        if not run.ended:
            run.ended = True
            entries.write_other_names(self._screen, run.other_names, run.bar.mark)
            entries.write_outcome(self._screen, run.fold.run(), run.bar.mark)
