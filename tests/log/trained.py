"""Small trainings for the tests of the writer, and a strict reader of what they wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, Sink, Subscriber, TrainState, accuracy
from nntrain.log import LogEvent
from nntrain.subscribers.protocol import AnswerEpoch

Batch = tuple[Tensor, Tensor]

_SOURCE: Final = torch.Generator().manual_seed(0)
BATCHES: Final = [(torch.randn(4, 3, generator=_SOURCE), torch.randint(0, 2, (4,), generator=_SOURCE))] * 3
EPOCH: Final = ["epoch_started", "epoch_finished"]
FIT: Final = ["run_started", "fit_started"]
END: Final = ["fit_finished", "run_finished"]


def learner_of(*sinks: Sink, batches: Sequence[Batch] = BATCHES, **changes: Any) -> Learner[Batch]:
    """Make a learner that takes no time to train, and trains the same whoever makes it."""

    def model() -> nn.Module:
        return nn.Linear(3, 2)

    arguments: dict[str, Any] = {
        "model": model,
        "dls": DataLoaders(batches, batches[:2]),
        "loss_fn": cross_entropy,
        "metric_fn": accuracy,
        "optim_class": torch.optim.SGD,
        "lr": 0.1,
        "sinks": sinks,
        **changes,
    }
    return Learner(**arguments)


class Padding(LogEvent, frozen=True):
    """An event that makes a line as long as is wanted."""

    event: Literal["tests.padding"] = "tests.padding"
    text: str


class Pads(Subscriber[Batch]):
    """Logs a long line at the beginning of each epoch."""

    def __init__(self, length: int) -> None:
        self.text = "ä" * (length // 2)

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        """Log it."""
        return state.log(Padding(text=self.text))


class At(Subscriber[Batch]):
    """Does something when the training phase of an epoch begins, before it is told of."""

    def __init__(self, **deeds: Callable[[], object]) -> None:
        self.deeds = {int(name.removeprefix("epoch_")): deed for name, deed in deeds.items()}

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        """Do it."""
        if state.progress.phase == "train" and state.progress.epoch in self.deeds:
            self.deeds[state.progress.epoch]()
        return state


def _refused(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def strictly(content: bytes) -> list[dict[str, Any]]:
    """Read whole lines of strict JSON."""
    assert not content or content.endswith(b"\n"), content[-80:]
    return [json.loads(line, parse_constant=_refused) for line in content.decode("utf-8").split("\n")[:-1]]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read a log as a strict reader does: nothing in it may be torn."""
    return strictly(path.read_bytes())


def names(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Give the events' names."""
    return [line["event"] for line in lines]


def counts(lines: Iterable[Mapping[str, Any]]) -> list[int]:
    """Give the lines' numbers."""
    return [line["seq"] for line in lines]


def by_run(lines: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Give the lines of each run."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        runs.setdefault(line["run_id"], []).append(line)
    return runs
