"""The event log: JSON lines made from the machine's transitions; writing, reading and replaying them."""

from nntrain.log.events import (
    BatchFinished,
    CancelledEvent,
    EpochFinished,
    EpochStarted,
    FitFinished,
    FitStarted,
    HistoryReplaced,
    OtherEvent,
    OwnEvent,
    PastPhase,
    RunFailed,
    RunFinished,
    RunStarted,
)
from nntrain.log.following import follow
from nntrain.log.json_log import JsonLog
from nntrain.log.line import SCHEMA, Line
from nntrain.log.reading import BadLine, LogReadError, TornLine, read, scan
from nntrain.log.replay import Run, replay
from nntrain.log.schema import event_schema
from nntrain.log.targets import FileTarget, LoggerTarget, StreamTarget, Target
from nntrain.values.log_event import CheckpointLoaded, CheckpointSaved, LogEvent, RolledBack, WarningEvent

__all__ = [
    "SCHEMA",
    "BadLine",
    "BatchFinished",
    "CancelledEvent",
    "CheckpointLoaded",
    "CheckpointSaved",
    "EpochFinished",
    "EpochStarted",
    "FileTarget",
    "FitFinished",
    "FitStarted",
    "HistoryReplaced",
    "JsonLog",
    "Line",
    "LogEvent",
    "LogReadError",
    "LoggerTarget",
    "OtherEvent",
    "OwnEvent",
    "PastPhase",
    "RolledBack",
    "Run",
    "RunFailed",
    "RunFinished",
    "RunStarted",
    "StreamTarget",
    "Target",
    "TornLine",
    "WarningEvent",
    "event_schema",
    "follow",
    "read",
    "replay",
    "scan",
]
