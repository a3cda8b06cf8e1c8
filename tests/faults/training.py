"""What the killed processes do: the trainings, each of which goes on from what is in its folder, to its end."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nntrain import Checkpoint, DataLoaders, EarlyStopping, Learner, Rollback, TrainState, accuracy, fit_step
from nntrain.checkpoint import resume, saving, sink
from nntrain.log import JsonLog
from tests.laws.strategies import Rolls
from tests.laws.test_law_04_processes import Averages, Noisy, digest, parts_of

EPOCHS: Final = 4


def network() -> nn.Module:
    """A network that takes some time to save: a megabyte, three times with Adam's memory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(32, 512), nn.Dropout(0.2), nn.ReLU(), nn.Linear(512, 512), nn.Linear(512, 3))


def samples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make samples of noise."""
    source = torch.Generator().manual_seed(count)
    return torch.randn(count, 32, generator=source), torch.randint(0, 3, (count,), generator=source)


def loaders(workers: int) -> DataLoaders[Any]:
    """Shuffled batches with random transforms; in processes of their own, where there are workers."""
    return DataLoaders(
        DataLoader(Noisy(samples(70)), 8, shuffle=True, num_workers=workers),
        DataLoader(TensorDataset(*samples(20)), 8),
    )


def train(folder: str, workers: int) -> None:
    """Train with all that a state can have, saving at every third step and what is best, and tell how it ended."""
    torch.set_num_threads(1)
    with JsonLog(Path(folder, "log.jsonl"), resume=True) as log:
        saves = Checkpoint(Path(folder, "run"), every_steps=3, keep_last=3, keep_best="loss")
        subs: list[Any] = [Rolls(), Averages(), EarlyStopping(patience=9), Rollback(every=5, spike=1.01, at_most=2)]
        learner = Learner(
            network(),
            loaders(workers),
            nn.functional.cross_entropy,
            accuracy,
            torch.optim.Adam,
            lambda step: 0.01 / (1 + step),
            subs,
            sinks=[saves, log],
        )
        found = resume(saves.folder, learner)
        tell_resumed(folder, found.path, [str(one) for one in found.skipped])
        state = found.state or learner.init(5)
        del found
        if state.progress.at != "finished":
            state = fit_step(learner, moved(state), EPOCHS).state
        told = {"end": {name: digest(part) for name, part in parts_of(state).items()}}
        Path(folder, "end.json").write_text(json.dumps(told))


def moved(state: TrainState) -> TrainState:
    """Give a state: nobody else is to hold it."""
    return state


def train_in_process(folder: str) -> None:
    """Train without workers."""
    train(folder, 0)


def train_with_workers(folder: str) -> None:
    """Train with two of them."""
    train(folder, 2)


def train_by_command(folder: str) -> None:
    """Train by the command line."""
    from nntrain.cli import main

    torch.set_num_threads(1)
    sys.argv = ["nntrain", "fit", "--epochs", "6", "--hidden", "700", "--log", f"{folder}/log.jsonl"]
    sys.argv += ["--checkpoint-dir", f"{folder}/run", "--save-every", "20", "--resume"]
    main()


TRAININGS: Final[dict[str, Callable[[str], None]]] = {
    "in process": train_in_process,
    "with workers": train_with_workers,
    "by command": train_by_command,
}


def tell_resumed(folder: str, path: Path | None, skipped: list[str]) -> None:
    """Add to what the processes in a folder went on from."""
    with Path(folder, "resumed.jsonl").open("a") as file:
        file.write(json.dumps({"path": path and str(path), "skipped": skipped}) + "\n")


# -- killed from inside ---------------------------------------------------------------------------------------------

CALLS: Final = ("open", "write", "fsync", "lseek", "close")


class Counting:
    """Counts the system's calls within saves, and has the process killed amid one of them."""

    def __init__(self, last: int) -> None:
        self.count = 0
        self._last = last
        self._lock = threading.Lock()
        self._saving = 0
        plain = saving.save_flattened

        def counted(*given: Any, **named: Any) -> Any:
            self._saving += 1
            try:
                return plain(*given, **named)
            finally:
                self._saving -= 1

        module: Any = sink
        module.save_flattened = counted
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        for name in ("replace", "unlink"):
            setattr(Path, name, self._counted(name, getattr(Path, name)))

    def _counted(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if self._saving:
                with self._lock:
                    self.count += 1
                    if self.count == self._last:
                        if name == "write":
                            plain(given[0], given[1][: len(given[1]) // 2])
                        os.kill(os.getpid(), signal.SIGKILL)
            return plain(*given, **named)

        return call


def train_until(folder: str, kind: str, last: int) -> None:
    """Train, and be killed at a call of a save; with 0 never, and tell how many calls there were."""
    counting = Counting(last)
    TRAININGS[kind](folder)
    Path(folder, "calls").write_text(str(counting.count))


def train_to_the_end(folder: str, kind: str) -> None:
    """Train, and be killed by nobody but the parent."""
    TRAININGS[kind](folder)
