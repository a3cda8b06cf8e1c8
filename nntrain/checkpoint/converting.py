"""From one form of a checkpoint to the other: a folder of parts, and one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nntrain.checkpoint.container import Stored
from nntrain.checkpoint.content import text_of
from nntrain.checkpoint.loading import open_checkpoint, read_state
from nntrain.checkpoint.manifest import Manifest
from nntrain.checkpoint.saving import Saved, write_file, write_folder
from nntrain.errors import ConfigError
from nntrain.ranks.world import current_world


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Saved:
    """Write a sharded checkpoint, a folder, as one file, or one file as a folder; `source` stays as it is.

    All of `source` is read and checked first, in the memory of one process. What is written says the same: the state,
    and when it was saved, by which versions, in which run. What was at `target` is replaced. It is whole or not there,
    as with `save`. Raises `CheckpointError`, and `ConfigError` on one of several processes.
    """
    if not current_world().single:
        raise ConfigError("convert is for a process by itself; on several ranks: save(load(source, learner), target).")
    with open_checkpoint(source) as content:
        was = content.head.tensors
        read = read_state(content).tensors
        tensors = {name: read[name] for name in was}  # in the order of the record, which is that of the state
        text = text_of(content.record)

        def said(stored: Mapping[str, Stored]) -> str:
            return text({name: one._replace(device=was[name].device) for name, one in stored.items()})

        write = write_file if isinstance(content.source, Manifest) else write_folder
        return write(tensors, Path(target), said)
