"""On CUDA no batch waits for the device: not plainly, not recorded, whatever the optimizer and the data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import BatchOutput, DataLoaders, Learner, Subscriber, TrainState, accuracy, advance

Batch = tuple[Tensor, Tensor]


class PassThrough(Subscriber[Batch]):
    """Answers the state it is shown."""

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        return state

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        return state


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "capturable adam": functools.partial(torch.optim.Adam, capturable=True),
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("subs", [0, 1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_batch_waits_for_the_device(name: str, subs: int, capture: bool) -> None:
    batches = [(torch.randn(8, 4).pin_memory(), torch.randint(0, 3, (8,)).pin_memory()) for _ in range(6)]
    learner: Learner[Any] = Learner(
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3)),
        DataLoaders(batches, batches),
        cross_entropy,
        accuracy,
        OPTIMIZERS[name],
        0.1,
        [PassThrough() for _ in range(subs)],
        device="cuda",
        capture=capture,
    )
    state = learner.init(epochs=2)
    while state.progress.epoch == 0:  # the first passes are compared with what was before, and recordings are made
        state = advance(learner, state).state
    waited = 0
    while state.progress.at != "finished":
        inside = state.progress.at == "batch" and state.progress.batch < len(batches)
        torch.cuda.set_sync_debug_mode("error" if inside else "default")
        try:
            state = advance(learner, state).state
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waited += inside
    assert waited == 2 * len(batches)
