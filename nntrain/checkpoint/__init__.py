"""Checkpoints: states as files that are whole or not there, checked to the last bit, and run no code."""

from nntrain.checkpoint.converting import convert
from nntrain.checkpoint.finding import Best, Latest, Resumed, Skipped, best, latest, restore_best, resume
from nntrain.checkpoint.loading import Inspection, StoredTensor, diff, inspect, load, verify
from nntrain.checkpoint.saving import Saved, save
from nntrain.checkpoint.sink import Checkpoint
from nntrain.errors import CheckpointError, MisfitError

__all__ = [
    "Best",
    "Checkpoint",
    "CheckpointError",
    "Inspection",
    "Latest",
    "MisfitError",
    "Resumed",
    "Saved",
    "Skipped",
    "StoredTensor",
    "best",
    "convert",
    "diff",
    "inspect",
    "latest",
    "load",
    "restore_best",
    "resume",
    "save",
    "verify",
]
