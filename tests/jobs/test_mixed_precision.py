"""Train in bfloat16 by autocast.

Today autocast is written inside the task. Left to issue 19: `Engine(precision=...)`, and fp16, whose scaler is to be
in the state and to skip steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, StepOutput, TrainState
from nntrain.update import chain, clip_norm, optimizer
from tests.jobs import check_job

Batch = tuple[Tensor, Tensor]
RANDOM = torch.Generator().manual_seed(0)
TRAIN: list[Batch] = [
    (torch.randn(32, 20, generator=RANDOM), torch.randint(0, 3, (32,), generator=RANDOM)) for _ in range(10)
]


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))


def plain(epochs: int = 2) -> tuple[nn.Module, list[float]]:
    model = classifier()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-2)
    told = []
    for _ in range(epochs):
        total = 0.0
        for x, y in TRAIN:
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(model(x), y)
            adamw.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adamw.step()
            total += loss.item() * len(y)
        told.append(total / (32 * len(TRAIN)))
    return model, told


def ours(epochs: int = 2) -> tuple[TrainState, list[float]]:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        x, y = batch
        with torch.autocast("cpu", torch.bfloat16):
            preds = model(x)
            return StepOutput(cross_entropy(preds, y), preds, y)

    update = chain(clip_norm(1.0), optimizer(torch.optim.AdamW, lr=1e-2))
    state = Learner.of(classifier(), DataLoaders(TRAIN, None), task, update).fit(epochs, print_stats=False).state
    return state, [stats.loss for stats in state.history]


def test_the_same_bits_as_the_plain_loop() -> None:
    state = check_job(plain, ours)
    assert {tensor.dtype for tensor in state.params.values()} == {torch.float32}


def test_it_computes_in_bfloat16() -> None:
    """Otherwise the test above could not fail for want of autocast."""
    x, _ = TRAIN[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert classifier()(x).dtype == torch.bfloat16
