"""`nntrain log show`: whole runs, one below the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from rich.text import Text

from nntrain.log.events import OWN
from nntrain.log.line import Line
from nntrain.log.replay import Run, of_other_ranks, replay
from nntrain.log.terminal import entries, words
from nntrain.log.terminal.phases import layout, table
from nntrain.log.terminal.screen import Screen

_MOST_OF_A_KIND: Final = 20
"""How many warnings, checkpoints and so on are shown of each; the rest are counted."""


def show_runs(lines: Iterable[Line], screen: Screen) -> None:
    """Print the runs of a log."""
    runs = replay(lines)
    if not runs:
        screen.write(Text("no run: there is no line", style="dim"))
    for index, run in enumerate(runs):
        if index:
            screen.write(Text())
        entries.write_facts(screen, run)
        if run.history:
            metrics = dict.fromkeys(name for stats in run.history for name in stats.metrics)
            for columns in layout(metrics, screen.console.width, run.history):
                screen.write(Text())
                screen.write(table(columns, run.history), wrap=False)
        screen.write(Text())
        _write_events(screen, run)
        for line in of_other_ranks(run):
            entries.write_event(screen, entries.kind_of(line) or "", line, f"rank {line.rank}")
        entries.write_outcome(screen, run)
        entries.write_ranks(screen, run)


def _write_events(screen: Screen, run: Run) -> None:
    """Print what happened beside the phases, in order."""
    count: Counter[str] = Counter()
    for line in run.events:
        kind = entries.kind_of(line)
        if kind is not None:
            count[kind] += 1
            if count[kind] <= _MOST_OF_A_KIND:
                entries.write_event(screen, kind, line)
    for kind, number in count.items():
        if number > _MOST_OF_A_KIND:
            screen.entry(kind, Text(f"{words.whole(number - _MOST_OF_A_KIND)} more like these"))
    others = Counter(line.event.event for line in (*run.events, *run.looks) if not isinstance(line.event, OWN))
    entries.write_other_names(screen, others)
    entries.write_lost(screen, run.missing)
