"""Training as values: a typed functional state machine for training PyTorch networks."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nntrain.checkpoint import Checkpoint
    from nntrain.data.dataloaders import DataLoaders
    from nntrain.data.images.hf import hf_ds_collate_fn
    from nntrain.data.loaders import Loader
    from nntrain.errors import NNTrainError
    from nntrain.evaluation.augmented import tta
    from nntrain.evaluation.evaluate import evaluate, predict, update_bn
    from nntrain.evaluation.lr_finder import lr_find
    from nntrain.evaluation.range_test import RangeTest
    from nntrain.live.engine import Engine
    from nntrain.live.objective import Objective
    from nntrain.looking import ActivationStats, confusion_matrix, overfit_one_batch, summary, worst_predictions
    from nntrain.machine.learner import Learner
    from nntrain.machine.steps import advance, batch_step, epoch_step, fit_step
    from nntrain.metrics.functions import accuracy
    from nntrain.metrics.measured import MetricFn
    from nntrain.metrics.metric import Metric
    from nntrain.ranks.options import DataParallel, Sharded
    from nntrain.sinks import PrintStats, Profiler, ProgressBar, ThroughputLog
    from nntrain.sinks.interest import Interest, Sink
    from nntrain.sinks.transition import BatchRan, RunInfo, Transition
    from nntrain.subscribers import EarlyStopping, NanGuard, ReduceOnPlateau, Rollback, TimeLimit
    from nntrain.subscribers.protocol import Subscriber, on
    from nntrain.task.carrying import carry
    from nntrain.task.supervised import LossFn, supervised
    from nntrain.task.task import Task
    from nntrain.values.history import EpochStats
    from nntrain.values.key import Key
    from nntrain.values.log_event import LogEvent
    from nntrain.values.output import BatchOutput, StepOutput
    from nntrain.values.progress import Phase, Progress
    from nntrain.values.record import Record
    from nntrain.values.slots import Slot
    from nntrain.values.state import TrainState, state_before
    from nntrain.values.verdicts import Cancel, CancelBatch, CancelEpoch, CancelFit, Cancelled, Completed, Outcome

__version__ = "0.1.0"

__all__ = [
    "ActivationStats",
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
    "DataParallel",
    "EarlyStopping",
    "Engine",
    "EpochStats",
    "Interest",
    "Key",
    "Learner",
    "Loader",
    "LogEvent",
    "LossFn",
    "Metric",
    "MetricFn",
    "NNTrainError",
    "NanGuard",
    "Objective",
    "Outcome",
    "Phase",
    "PrintStats",
    "Profiler",
    "Progress",
    "ProgressBar",
    "RangeTest",
    "Record",
    "ReduceOnPlateau",
    "Rollback",
    "RunInfo",
    "Sharded",
    "Sink",
    "Slot",
    "StepOutput",
    "Subscriber",
    "Task",
    "ThroughputLog",
    "TimeLimit",
    "TrainState",
    "Transition",
    "accuracy",
    "advance",
    "batch_step",
    "carry",
    "confusion_matrix",
    "epoch_step",
    "evaluate",
    "fit_step",
    "hf_ds_collate_fn",
    "lr_find",
    "on",
    "overfit_one_batch",
    "predict",
    "state_before",
    "summary",
    "supervised",
    "tta",
    "update_bn",
    "worst_predictions",
]

_HOMES: Final = {
    "nntrain.checkpoint": "Checkpoint",
    "nntrain.data.dataloaders": "DataLoaders",
    "nntrain.data.images.hf": "hf_ds_collate_fn",
    "nntrain.data.loaders": "Loader",
    "nntrain.errors": "NNTrainError",
    "nntrain.live.engine": "Engine",
    "nntrain.ranks.options": "DataParallel Sharded",
    "nntrain.live.objective": "Objective",
    "nntrain.evaluation.augmented": "tta",
    "nntrain.evaluation.evaluate": "evaluate predict update_bn",
    "nntrain.looking": "ActivationStats confusion_matrix overfit_one_batch summary worst_predictions",
    "nntrain.machine.learner": "Learner",
    "nntrain.evaluation.lr_finder": "lr_find",
    "nntrain.evaluation.range_test": "RangeTest",
    "nntrain.machine.steps": "advance batch_step epoch_step fit_step",
    "nntrain.metrics.functions": "accuracy",
    "nntrain.metrics.measured": "MetricFn",
    "nntrain.metrics.metric": "Metric",
    "nntrain.sinks": "PrintStats Profiler ProgressBar ThroughputLog",
    "nntrain.sinks.interest": "Interest Sink",
    "nntrain.sinks.transition": "BatchRan RunInfo Transition",
    "nntrain.subscribers": "EarlyStopping NanGuard ReduceOnPlateau Rollback TimeLimit",
    "nntrain.subscribers.protocol": "Subscriber on",
    "nntrain.task.carrying": "carry",
    "nntrain.task.supervised": "LossFn supervised",
    "nntrain.task.task": "Task",
    "nntrain.values.history": "EpochStats",
    "nntrain.values.key": "Key",
    "nntrain.values.log_event": "LogEvent",
    "nntrain.values.output": "BatchOutput StepOutput",
    "nntrain.values.progress": "Phase Progress",
    "nntrain.values.record": "Record",
    "nntrain.values.slots": "Slot",
    "nntrain.values.state": "TrainState state_before",
    "nntrain.values.verdicts": "Cancel CancelBatch CancelEpoch CancelFit Cancelled Completed Outcome",
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
