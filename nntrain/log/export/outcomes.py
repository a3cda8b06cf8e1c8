"""How a run ended, as its lines tell it one after the other."""

from __future__ import annotations

from typing import Literal

from nntrain.log.events import FitFinished, FitStarted, RunFailed, RunFinished
from nntrain.log.line import Line

Ending = Literal["completed", "cancelled", "failed", "interrupted", "unknown"]
"""`interrupted` by Ctrl-C; `unknown` as long as the log does not say, which is how that of a killed process ends."""


def ending(before: Ending, line: Line) -> Ending:
    """Give how a run ended as of this line, from how it had ended before it."""
    match line.event:
        case FitStarted():
            return "unknown"
        case FitFinished(outcome=outcome):
            return outcome
        case RunFailed(error_type=error_type):
            return "interrupted" if error_type.rpartition(".")[2] == "KeyboardInterrupt" else "failed"
        case RunFinished() if before == "unknown":
            return "completed"
        case _:
            return before
