"""Fine-tune a model that computes its own loss, as those of transformers do: out.loss and out.logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, StepOutput, TrainState, accuracy, predict
from nntrain.update import optimizer
from tests.jobs import check_job

Batch = dict[str, Tensor]
RANDOM = torch.Generator().manual_seed(0)


class Output(NamedTuple):
    loss: Tensor | None
    logits: Tensor


class Classifier(nn.Module):
    """Means of embeddings, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Output:
        mask = attention_mask[..., None]
        logits = self.head((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))
        return Output(None if labels is None else cross_entropy(logits, labels), logits)


def batch(count: int) -> Batch:
    lengths = torch.randint(1, 11, (count, 1), generator=RANDOM)
    return {
        "input_ids": torch.randint(0, 40, (count, 10), generator=RANDOM),
        "attention_mask": (torch.arange(10) < lengths).long(),
        "labels": torch.randint(0, 3, (count,), generator=RANDOM),
    }


TRAIN, VALID = [batch(16), batch(16), batch(5)], [batch(16), batch(4)]


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier()


def plain(epochs: int = 3) -> tuple[nn.Module, list[tuple[float, float]]]:
    model = classifier()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-2)
    told = []
    for _ in range(epochs):
        total, count, right, seen = 0.0, 0, 0, 0
        for batch in TRAIN:
            loss = model(**batch).loss
            adamw.zero_grad()
            loss.backward()
            adamw.step()
            total += loss.item() * len(batch["labels"])
            count += len(batch["labels"])
        with torch.no_grad():
            for batch in VALID:
                right += int((model(**batch).logits.argmax(1) == batch["labels"]).sum())
                seen += len(batch["labels"])
        told.append((total / count, right / seen))
    return model, told


def ours(epochs: int = 3) -> tuple[TrainState, list[tuple[float, float]]]:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        out = model(**batch)
        return StepOutput(out.loss, out.logits, batch["labels"])

    adamw = optimizer(torch.optim.AdamW, lr=1e-2)
    learner = Learner.of(classifier(), DataLoaders(TRAIN, VALID), task, adamw, metrics={"accuracy": accuracy})
    state = learner.fit(epochs, print_stats=False).state
    phases = zip(state.history[::2], state.history[1::2], strict=True)
    return state, [(train.loss, valid.metrics["accuracy"]) for train, valid in phases]


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)


def test_predictions_of_texts_without_labels() -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        out = model(**batch)
        return StepOutput(out.loss, out.logits, batch.get("labels"))

    learner = Learner.of(classifier(), DataLoaders(TRAIN, None), task, optimizer(torch.optim.AdamW, lr=1e-2))
    state = learner.fit(1, print_stats=False).state
    model, texts = state.to_module(), [{name: one[name] for name in one if name != "labels"} for one in VALID]
    expected = torch.cat([model(**text).logits for text in texts])
    assert torch.equal(torch.cat(list(predict(learner, state, texts))), expected)
