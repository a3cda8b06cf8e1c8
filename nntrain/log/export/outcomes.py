"""How a run ended, found line by line."""

from __future__ import annotations

from typing import Literal

from nntrain.log.events import FitFinished, FitStarted, RunFailed, RunFinished
from nntrain.log.line import Line

Ending = Literal["completed", "cancelled", "failed", "interrupted", "unknown"]
"""`interrupted`: by Ctrl-C. `unknown`: the log does not say, as that of a killed process."""


def ending(before: Ending, line: Line) -> Ending:
    """Return how the run ended as of this line; `before` is the answer without it."""
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
