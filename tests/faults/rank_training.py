"""What torchrun runs, and kills: `python -m tests.faults.rank_training FOLDER`, a training by all ranks to its end."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from nntrain import Checkpoint, Engine, Learner, Subscriber, TrainState, accuracy, fit_step
from nntrain.checkpoint import resume
from nntrain.log import JsonLog
from nntrain.metrics import Confusion
from nntrain.ranks.options import DataParallel, Sharded
from tests.faults.training import loaders, network

EPOCHS: Final = 12
TIMEOUT: Final = 20.0
AMID: Final = 20
"""The step at which rank 0 says that it is amid the training, or rank 1 hangs."""


class Here(Subscriber[Any]):
    """Says in a file when it comes to a step; or hangs there."""

    def __init__(self, folder: str, *, hangs: bool) -> None:
        self._folder = folder
        self._hangs = hangs

    def before_epoch(self, state: TrainState) -> TrainState:
        """Look at where the training stands, which asks the other ranks nothing at a batch."""
        if state.progress.step >= AMID:
            here(self._folder, "amid")
            while self._hangs and rank() == "1":
                time.sleep(1)
        return state


def rank() -> str:
    """Return which rank this process is."""
    return os.environ.get("RANK", "0")


def here(folder: str, what: str) -> None:
    """Say in a file that this rank has come somewhere, in which of its starts."""
    made = Path(folder, f"{what}-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-{rank()}.new")
    made.write_text(str(os.getpid()))
    made.rename(made.with_suffix(""))


def learner_of(
    folder: str, every: int = 3, *, hangs: bool = False, sharded: bool = False, timeout: float = TIMEOUT
) -> Learner[Any]:
    """Return a learner of shuffled, noisy data whose last batch is uneven."""
    sinks: list[Any] = [Checkpoint(Path(folder, "run"), every_steps=every, sharded=sharded, grace_seconds=5)]
    if rank() == "0":
        sinks.append(JsonLog(Path(folder, "log.jsonl"), resume=True))
    return Learner(
        network(),
        loaders(0),
        nn.functional.cross_entropy,
        {"accuracy": accuracy, "seen": Confusion(3)},
        torch.optim.Adam,
        0.003,
        [Here(folder, hangs=hangs)],
        sinks=sinks,
        engine=Engine(parallel=Sharded(timeout=timeout) if sharded else DataParallel(timeout=timeout)),
    )


def train() -> None:
    """Go on from what is in the folder, up to the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=TIMEOUT)
    parser.add_argument("--hangs", action="store_true")
    parser.add_argument("--sharded", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    here(given.folder, "begun")
    learner = learner_of(given.folder, given.every, hangs=given.hangs, sharded=given.sharded, timeout=given.timeout)
    state = resume(Path(given.folder, "run"), learner).state or learner.init(5)
    here(given.folder, "trains")
    try:
        if state.progress.at != "finished":
            fit_step(learner, state, given.epochs)
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the launcher hands on, while this is written
        said = f"{type(error).__name__} {getattr(error, 'rank', None)} {error}"
        written = Path(given.folder, f"said-{rank()}.part")
        written.write_text(said)
        written.rename(written.with_suffix(""))  # who waits for it is to read it whole
        raise


if __name__ == "__main__":
    train()
