"""Runs shown while their lines come."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from nntrain.log.events import (
    EpochFinished,
    EpochStarted,
    FitFinished,
    FitStarted,
    HistoryReplaced,
    RunFailed,
    RunFinished,
    RunStarted,
)
from nntrain.log.line import Line
from nntrain.log.replay import RunOutcome, stats_of
from nntrain.log.terminal import facts, telling, words
from nntrain.log.terminal.bars import Bar
from nntrain.log.terminal.phases import Phases, heading, row
from nntrain.log.terminal.screen import Screen
from nntrain.values.history import EpochStats

_MARK: Final = 6
"""Characters of the end of a run's id that tell it from the others."""
_SOON: Final = 0.1
"""Seconds after which a bar is drawn anew. Between lines it is drawn anew by the clock."""


@dataclass
class _Followed:
    """What is known of a run while its lines come."""

    last: Line
    next_seq: int
    bar: Bar = field(default_factory=Bar)
    running: bool = True
    told_end: bool = False
    outcome: RunOutcome = "running"
    metrics: tuple[str, ...] | None = None
    phases: Phases | None = None
    history: list[EpochStats] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def follow_runs(lines: Iterator[Line], screen: Screen) -> None:
    """Show lines as they come, until there are no more."""
    following = _Following(screen)
    live: AbstractContextManager[object] = nullcontext()
    if screen.live:
        live = Live(
            console=screen.console,
            get_renderable=following.bars,
            transient=True,
            refresh_per_second=5,
            redirect_stdout=False,
            redirect_stderr=False,
        )
    drawn = 0.0
    with live:
        for line in lines:
            following.hear(line)
            if isinstance(live, Live) and isinstance(line.event, FitStarted | EpochStarted | EpochFinished):
                now = time.monotonic()
                if isinstance(line.event, FitStarted) or now - drawn > _SOON:
                    live.refresh()
                    drawn = now
    following.end()


class _Following:
    """The runs whose lines come, told apart by their ids."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._runs: dict[str, _Followed] = {}

    def bars(self) -> RenderableType:
        """Draw the bars of the runs that go on."""
        runs = [(run_id, run) for run_id, run in [*self._runs.items()] if run.running and run.bar.gauge.epochs]
        drawn = [run.bar.drawn(self._screen.width, self._mark(run_id)) for run_id, run in runs]
        return self._screen.encodable(Group(*drawn)) if drawn else Text("", end="")

    def hear(self, line: Line) -> None:
        """Take one more line, and write what it tells. Of a run of many processes the lowest rank is heard."""
        run = self._runs.get(line.run_id)
        if run is None:
            run = self._runs[line.run_id] = _Followed(line, line.seq)
            if len(self._runs) > 1:
                self._screen.say()
            config: Mapping[str, Any] = line.event.config if isinstance(line.event, RunStarted) else {}
            facts.begin(self._screen, line.run_id, line.timestamp, config)
        elif line.rank != run.last.rank:
            if line.rank > run.last.rank:
                return
            run.next_seq = line.seq
        mark = self._mark(line.run_id)
        if line.seq > run.next_seq:
            telling.say(self._screen, telling.lost(line.seq - run.next_seq), mark)
        run.last, run.next_seq = line, line.seq + 1
        run.bar.hear(line)
        self._write(line, run, mark)

    def _write(self, line: Line, run: _Followed, mark: str) -> None:
        match line.event:
            case FitStarted():
                run.running, run.told_end, run.outcome = True, False, "running"
            case EpochFinished() as event:
                run.history.append(stats_of(line, event))
                self._phase(run, mark)
            case HistoryReplaced(kept=kept, history=history):
                run.history[kept:] = [past.stats() for past in history]
            case FitFinished(outcome=outcome):
                run.outcome = outcome
            case RunFailed():
                run.outcome = "failed"
            case RunFinished() if run.outcome == "running":
                run.outcome = "completed"
            case _:
                pass
        run.others.update(telling.others([line.event]))
        one = telling.told(line)
        if one is not None:
            telling.say(self._screen, one, mark)
        if isinstance(line.event, RunFailed | RunFinished):
            run.running = False
            self._end(run, mark)

    def _phase(self, run: _Followed, mark: str) -> None:
        """Write the row of a finished phase, and the headings above where they are not there yet."""
        stats = run.history[-1]
        metrics = (*stats.metrics,)
        begun = Text(f"{mark}  " if mark else "", style="cyan")
        if run.phases is None or metrics != run.metrics:
            run.metrics = metrics
            run.phases = Phases(metrics, self._screen.width - len(begun))
            self._screen.row(begun + heading(run.phases.parts[0]))
            left_out = run.phases.left_out
            if left_out:
                more = f"{words.counted(len(left_out), 'more metric')}: nntrain log show has them"
                self._screen.row(begun + Text(more, style="dim"))
        self._screen.row(begun + row(run.phases.parts[0], stats))

    def end(self) -> None:
        """Say of the runs that go on how far they are."""
        for run_id, run in self._runs.items():
            self._end(run, self._mark(run_id))

    def _end(self, run: _Followed, mark: str) -> None:
        if run.told_end:
            return
        run.told_end = True
        telling.say_others(self._screen, run.others, mark)
        epochs = run.bar.gauge.epochs
        facts.end(self._screen, run.outcome, run.history, epochs=epochs, last=run.last, mark=mark)

    def _mark(self, run_id: str) -> str:
        """Give what tells a run from the others, nothing where it is alone."""
        if len(self._runs) < 2:
            return ""
        marks = [other[-_MARK:] for other in self._runs]
        return run_id[-_MARK:] if marks.count(run_id[-_MARK:]) == 1 else run_id
