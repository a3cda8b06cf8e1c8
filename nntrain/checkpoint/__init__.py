"""Checkpoints: states as files that are whole or not there, checked to the last bit, and run no code."""

from nntrain.checkpoint.loading import Inspection, StoredTensor, inspect, load, verify
from nntrain.checkpoint.saving import Saved, save
from nntrain.errors import CheckpointError, MisfitError

__all__ = [
    "CheckpointError",
    "Inspection",
    "MisfitError",
    "Saved",
    "StoredTensor",
    "inspect",
    "load",
    "save",
    "verify",
]
