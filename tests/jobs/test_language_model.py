"""Train a causal language model on padded text: the loss is a mean over tokens, told as perplexity."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, StepOutput, TrainState
from nntrain.update import optimizer
from tests.jobs import check_job

RANDOM = torch.Generator().manual_seed(0)


class Model(nn.Module):
    """A GRU over embeddings, whose output layer is tied to them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(self.embedding(ids))[0])
        return logits


def batch(count: int) -> tuple[Tensor, Tensor]:
    """Return ids, and labels that are -100 where there is padding."""
    ids = torch.randint(0, 30, (count, 12), generator=RANDOM)
    lengths = torch.randint(2, 13, (count, 1), generator=RANDOM)
    return ids, ids.masked_fill(torch.arange(12) >= lengths, -100)


TRAIN, VALID = [batch(8), batch(8), batch(3)], [batch(8), batch(1)]


def language_model() -> Model:
    torch.manual_seed(0)
    return Model()


def plain(epochs: int = 2) -> tuple[nn.Module, list[tuple[float, float]]]:
    model = language_model()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-2)
    told = []
    for _ in range(epochs):
        losses, tokens = 0.0, 0
        for ids, labels in TRAIN:
            loss = cross_entropy(model(ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            adamw.zero_grad()
            loss.backward()
            adamw.step()
            count = int((labels[:, 1:] != -100).sum())
            losses, tokens = losses + loss.item() * count, tokens + count
        valid, seen = 0.0, 0
        with torch.no_grad():
            for ids, labels in VALID:
                loss = cross_entropy(model(ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
                count = int((labels[:, 1:] != -100).sum())
                valid, seen = valid + loss.item() * count, seen + count
        told.append((losses / tokens, math.exp(valid / seen)))
    return model, told


def ours(epochs: int = 2) -> tuple[TrainState, list[tuple[float, float]]]:
    def task(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        ids, labels = batch
        logits = model(ids)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return StepOutput(loss, logits, labels, weight=(labels[:, 1:] != -100).sum())

    learner = Learner.of(language_model(), DataLoaders(TRAIN, VALID), task, optimizer(torch.optim.AdamW, lr=1e-2))
    state = learner.fit(epochs, print_stats=False).state
    phases = zip(state.history[::2], state.history[1::2], strict=True)
    return state, [(train.loss, math.exp(valid.loss)) for train, valid in phases]


def test_the_same_bits_as_the_plain_loop() -> None:
    state = check_job(plain, ours)
    tokens = sum(int((labels[:, 1:] != -100).sum()) for _, labels in TRAIN)
    assert state.history[0].samples == tokens
