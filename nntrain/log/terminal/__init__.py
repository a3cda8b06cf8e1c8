"""Logs for a person at a terminal: what they tell, or what is happening. Needs rich, which the extra `terminal` has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nntrain.log.extras import needed
from nntrain.log.line import Line

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["follow", "show"]


def show(lines: Iterable[Line], *, console: Console | None = None) -> None:
    """Show the runs that lines tell of: what was trained, its phases, what happened beside, how it ended.

    `console` is where to; stdout by default. Raises `MissingExtraError` where rich is not installed.
    """
    needed("rich", extra="terminal", purpose="nntrain log show")
    from nntrain.log.terminal.screen import Screen
    from nntrain.log.terminal.showing import show_runs

    show_runs(lines, Screen(console))


def follow(lines: Iterator[Line], *, console: Console | None = None) -> None:
    """Show lines as they come: a bar for each fit, and above it each phase when it is finished.

    Where the console is no terminal there are no bars. Raises `MissingExtraError` where rich is not installed.
    """
    needed("rich", extra="terminal", purpose="nntrain log follow")
    from nntrain.log.terminal.live import follow_runs
    from nntrain.log.terminal.screen import Screen

    follow_runs(lines, Screen(console))
