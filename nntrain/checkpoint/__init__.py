"""Checkpoints: states as files that are whole or not there, checked to the last bit, and run no code."""

from nntrain.checkpoint.finding import Latest, Resumed, Skipped, latest, resume
from nntrain.checkpoint.loading import Inspection, StoredTensor, diff, inspect, load, verify
from nntrain.checkpoint.saving import Saved, save
from nntrain.checkpoint.sink import Checkpoint
from nntrain.errors import CheckpointError, MisfitError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Inspection",
    "Latest",
    "MisfitError",
    "Resumed",
    "Saved",
    "Skipped",
    "StoredTensor",
    "diff",
    "inspect",
    "latest",
    "load",
    "resume",
    "save",
    "verify",
]
