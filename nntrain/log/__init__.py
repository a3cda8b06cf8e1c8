"""The event log: JSON lines that are a function of the machine's transitions."""

from nntrain.log.events import CancelledEvent, EpochFinished, LogEvent, RunFailed, RunFinished, RunStarted, WarningEvent
from nntrain.log.json_log import JsonLog

__all__ = [
    "CancelledEvent",
    "EpochFinished",
    "JsonLog",
    "LogEvent",
    "RunFailed",
    "RunFinished",
    "RunStarted",
    "WarningEvent",
]
