"""Training as values: a typed functional state machine for training PyTorch networks."""

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
