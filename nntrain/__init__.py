"""Training as values: a typed functional state machine for training PyTorch networks."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nntrain.checkpoint import Checkpoint
    from nntrain.data.dataloaders import DataLoaders
    from nntrain.data.hf import hf_ds_collate_fn
    from nntrain.errors import NNTrainError, state_before
    from nntrain.events import BatchOutput, Subscriber, on
    from nntrain.learner import Learner
    from nntrain.loaders import Loader
    from nntrain.logged import LogEvent
    from nntrain.metrics import accuracy
    from nntrain.passes import LossFn, MetricFn
    from nntrain.records import EpochStats, Key, Phase, Progress, Record, Slot, TrainState
    from nntrain.sinks import PrintStats
    from nntrain.steps import advance, batch_step, epoch_step, fit_step
    from nntrain.subscribers import EarlyStopping, NanGuard, Rollback
    from nntrain.transitions import BatchRan, RunInfo, Sink, Transition
    from nntrain.verdicts import Cancel, CancelBatch, CancelEpoch, CancelFit, Cancelled, Completed, Outcome

__version__ = "0.1.0"

__all__ = [
    "BatchOutput",
    "BatchRan",
    "Cancel",
    "CancelBatch",
    "CancelEpoch",
    "CancelFit",
    "Cancelled",
    "Checkpoint",
    "Completed",
    "DataLoaders",
    "EarlyStopping",
    "EpochStats",
    "Key",
    "Learner",
    "Loader",
    "LogEvent",
    "LossFn",
    "MetricFn",
    "NNTrainError",
    "NanGuard",
    "Outcome",
    "Phase",
    "PrintStats",
    "Progress",
    "Record",
    "Rollback",
    "RunInfo",
    "Sink",
    "Slot",
    "Subscriber",
    "TrainState",
    "Transition",
    "accuracy",
    "advance",
    "batch_step",
    "epoch_step",
    "fit_step",
    "hf_ds_collate_fn",
    "on",
    "state_before",
]

_HOMES: Final = {
    "nntrain.checkpoint": "Checkpoint",
    "nntrain.data.dataloaders": "DataLoaders",
    "nntrain.data.hf": "hf_ds_collate_fn",
    "nntrain.errors": "NNTrainError state_before",
    "nntrain.events": "BatchOutput Subscriber on",
    "nntrain.learner": "Learner",
    "nntrain.loaders": "Loader",
    "nntrain.logged": "LogEvent",
    "nntrain.metrics": "accuracy",
    "nntrain.passes": "LossFn MetricFn",
    "nntrain.records": "EpochStats Key Phase Progress Record Slot TrainState",
    "nntrain.sinks": "PrintStats",
    "nntrain.steps": "advance batch_step epoch_step fit_step",
    "nntrain.subscribers": "EarlyStopping NanGuard Rollback",
    "nntrain.transitions": "BatchRan RunInfo Sink Transition",
    "nntrain.verdicts": "Cancel CancelBatch CancelEpoch CancelFit Cancelled Completed Outcome",
}
"""Where each name is made. `import nntrain` alone imports no torch: pytest loads the plugin, used or not."""

_HOME_OF: Final = {name: module for module, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # so that type checkers see no attribute but those above

    def __getattr__(name: str) -> object:
        """Import a name when it is first asked for."""
        if name not in _HOME_OF:
            raise AttributeError(f"module 'nntrain' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return value

    def __dir__() -> list[str]:
        """List what there is, asked for already or not."""
        return sorted({*globals(), *__all__})
