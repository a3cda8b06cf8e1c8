"""`check_ranks`: whether all ranks of a training have the same weights, settings, code and data."""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from nntrain.data.divided import undivided
from nntrain.data.stream import Stream
from nntrain.errors import ConfigError
from nntrain.machine.learner import Learner
from nntrain.machine.machine import machine_of
from nntrain.ranks.comparing import check_same, digest, source_digest
from nntrain.values.flattening import Flattener
from nntrain.values.state import TrainState

Batch = TypeVar("Batch")


def check_ranks(learner: Learner[Batch], state: TrainState) -> None:
    """Check that all ranks have the same `state` and `learner`, tensor by tensor. All of them call it.

    Compared are the state's tensors, its key, progress, learning rate's scale and slots, not the rank's own share of a
    phase's sums; the learner's settings; the code of nntrain and of the task; and of each loader the first batch that
    it gives in this epoch, before it is divided. A process by itself has nothing to compare.

    Raises `RankError` on all ranks: it says what differs, by name, and between which ranks.
    """
    if not isinstance(state, TrainState):
        raise ConfigError(f"check_ranks takes a TrainState; got {type(state).__name__}.")
    check_same(named_digests(learner, state))


def named_digests(learner: Learner[Batch], state: TrainState) -> dict[str, str]:
    """Return what `check_ranks` compares, by name: short values as they are, tensors and code as digests."""
    machine = machine_of(learner)
    flattener = Flattener()
    flattener.tree(state, "")
    found = {f"state {name.strip('/')}": digest(one) for name, one in flattener.tensors.items() if "sums/" not in name}
    found |= {name: repr(getattr(state, name)) for name in ("key", "progress", "lr_scale")}
    found |= {f"slot {name}": digest(repr(kept)) for name, kept in state.slots.items()}
    info = machine.info(state.key.seed)
    found |= {f"setting {name}": repr(value) for name, value in info.config.items()}
    found |= {"setting learner": info.learner}
    found["code of nntrain"] = source_digest(Path(__file__).parents[1])
    tasks: dict[str, Any] = {one.name: one.task for one in learner.objectives or ()} or {"the task": learner.task}
    for name, task in tasks.items():
        with suppress(OSError, TypeError):  # it was typed into a prompt, or is an object
            found[f"code of {name}"] = digest(inspect.getsource(task))
    for name, stream in machine.streams.items():
        whole = Stream(undivided(stream.loader), stream.fold, stream.name)
        with torch.random.fork_rng(devices=[]):
            batch = whole.batch(state.key, state.progress.epoch, 0)
        whole.close()
        found[f"first batch of {name or 'valid'}"] = digest(batch)
    return found
