"""Runs shown after the fact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from rich.text import Text

from nntrain.log.line import Line
from nntrain.log.replay import Run, replay
from nntrain.log.terminal import facts, telling, words
from nntrain.log.terminal.phases import Phases, heading, metrics_of, row
from nntrain.log.terminal.screen import Screen

_MOST_OF_A_KIND: Final = 20
"""How many warnings, checkpoints and so on are shown of each; the rest are counted."""


def show_runs(lines: Iterable[Line], screen: Screen) -> None:
    """Show the runs that lines tell of, one below the other."""
    runs = replay(lines)
    if not runs:
        screen.say(Text("no run: there is no line", style="dim"))
    for index, run in enumerate(runs):
        if index:
            screen.say()
        _show(screen, run)


def _show(screen: Screen, run: Run) -> None:
    facts.begin(screen, run.run_id, run.started, run.config)
    if run.history:
        for part in Phases([*metrics_of(run.history)], screen.width, run.history).parts:
            screen.say()
            screen.row(heading(part))
            for stats in run.history:
                screen.row(row(part, stats))
    screen.say()
    _tell(screen, run)
    facts.end(screen, run.outcome, run.history, epochs=run.epochs, last=run.last)


def _tell(screen: Screen, run: Run) -> None:
    """Write what happened beside the phases, in order."""
    count: Counter[telling.Kind] = Counter()
    for line in run.events:
        one = telling.told(line)
        if one is None:
            continue
        count[one.kind] += 1
        if count[one.kind] <= _MOST_OF_A_KIND:
            telling.say(screen, one)
    for kind, number in count.items():
        if number > _MOST_OF_A_KIND:
            more = f"{words.whole(number - _MOST_OF_A_KIND)} more like these"
            telling.say(screen, telling.Told(kind, "", more))
    telling.say_others(screen, telling.others(line.event for line in run.events))
    if run.missing:
        telling.say(screen, telling.lost(run.missing))
