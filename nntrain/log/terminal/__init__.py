"""Event logs for a person at a terminal: after training, or while it runs. Needs rich (the extra `terminal`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nntrain.errors import needed
from nntrain.log.following import Waiting
from nntrain.log.line import Line

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["follow", "show"]


def show(lines: Iterable[Line], *, console: Console | None = None) -> None:
    """Print the runs of a log: what was trained, a table of the phases, what else happened, and the outcome.

    `console` is stdout by default. Raises `MissingExtraError` if rich is not installed.
    """
    needed("rich", extra="terminal", purpose="nntrain log show")
    from nntrain.log.terminal.screen import Screen
    from nntrain.log.terminal.showing import show_runs

    show_runs(lines, Screen(console))


def follow(lines: Iterable[Line | Waiting], *, console: Console | None = None) -> None:
    """Print lines as they come: each finished phase in a row, and below them a progress bar for each running fit.

    Where none comes for long, it says so, and what that may mean: `nntrain.log.following.watch` yields the waits.
    A console that is no terminal gets the rows and no bars. Raises `MissingExtraError` if rich is not installed.
    """
    needed("rich", extra="terminal", purpose="nntrain log follow")
    from nntrain.log.terminal.live import follow_runs
    from nntrain.log.terminal.screen import Screen

    follow_runs(lines, Screen(console))
