"""The kit's check of tasks: on tasks that break each law, and on some that break none."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import StepOutput, supervised
from nntrain.errors import ConfigError
from nntrain.testing import LawBrokenError, check_task

Pair = tuple[Tensor, Tensor]


def classified(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    """Give the ordinary loss."""
    preds = model(batch[0])
    return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1])


def with_parts(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    """Give a noisy loss in training, none in eval, and a part."""
    inputs = batch[0] + torch.randn_like(batch[0]) if model.training else batch[0]
    preds = model(inputs)
    parts = {"largest": preds.detach().amax(1).mean()}
    return StepOutput(cross_entropy(preds, batch[1]) if model.training else None, preds, batch[1], parts=parts)


GOOD: dict[str, Any] = {
    "supervised": supervised(cross_entropy),
    "a module": supervised(nn.CrossEntropyLoss(label_smoothing=0.1)),
    "noise and parts": with_parts,
}


@pytest.mark.parametrize("task", GOOD.values(), ids=GOOD)
def test_what_breaks_no_law_passes(task: Any, device: torch.device) -> None:
    check_task(task, examples=2, device=device)


OTHER = nn.Linear(4, 3)
CALLS = {"made": 0}


def of_another(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    return classified(OTHER, batch)


def writes_batch(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    batch[0].mul_(2)
    return classified(model, batch)


def writes_weights(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    for param in model.parameters():
        param.data.clamp_(-0.1, 0.1)
    return classified(model, batch)


def goes_backward(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    output = classified(model, batch)
    if model.training:
        classified(model, batch).loss.backward()  # type: ignore[union-attr] # it has one
    return output


def evaluates(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    return classified(model.eval(), batch)


def freezes(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    next(model.parameters()).requires_grad_(False)
    return classified(model, batch)


def counts(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    CALLS["made"] += 1
    return classified(model, batch)


def grows(model: nn.Module, batch: Pair, seen: list[int] = [0]) -> StepOutput[Tensor]:  # noqa: B006 - the mistake
    seen[0] += 1
    preds = model(batch[0])
    return StepOutput(cross_entropy(preds, batch[1]) * seen[0], preds, batch[1])


def sets_dtype(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    torch.set_default_dtype(torch.float64)
    return classified(model, batch)


def drawn(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    random.random()
    return classified(model, batch)


def printing(model: nn.Module, batch: Pair) -> StepOutput[Tensor]:
    print(batch)
    return classified(model, batch)


def in_numbers(model: nn.Module, batch: Pair) -> Any:
    return StepOutput(classified(model, batch).loss.item())  # type: ignore[union-attr, arg-type] # the mistake


def elsewhere(model: nn.Module, batch: Pair) -> StepOutput[None]:
    return StepOutput(cross_entropy(model(batch[0]), batch[1]).to("meta"), weight=1)


def weighs_nothing(model: nn.Module, batch: Pair) -> Any:
    return StepOutput(classified(model, batch).loss, weight=0)


def of_batches(model: nn.Module, batch: Pair) -> Any:
    return StepOutput(classified(model, batch).loss, weight=1)


def summed(model: nn.Module, batch: Pair) -> Any:
    preds = model(batch[0])
    return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1], parts={"total": preds.detach().sum()})


BROKEN: dict[str, tuple[Any, str, str]] = {
    "a bare loss": (
        lambda model, batch: classified(model, batch).loss,
        "answers",
        "is refused: task <lambda> returned",
    ),
    "a loss in numbers": (in_numbers, "answers", "expected one number as a 0-dim tensor"),
    "another device": (elsewhere, "answers", "gave a loss on meta; the model and the batch are on cpu"),
    "no weight": (weighs_nothing, "answers", "returned the weight 0"),
    "another model": (of_another, "model", "does not depend on the parameters of the model that it is given"),
    "a detached loss": (
        lambda model, batch: StepOutput(OTHER(batch[0]).sum() + model(batch[0]).detach().sum(), None, batch[1]),
        "model",
        "Use its argument, and no other model",
    ),
    "the batch": (writes_batch, "immutability", "wrote to the batch"),
    "the weights": (writes_weights, "immutability", "wrote to the model's parameters"),
    "backward": (goes_backward, "immutability", "goes backward itself"),
    "eval mode": (evaluates, "manners", "leaves the model in another mode"),
    "frozen": (freezes, "manners", "leaves the model in another mode"),
    "the default dtype": (sets_dtype, "manners", "changed torch's default dtype"),
    "a global": (counts, "resume", "remembers something: the global CALLS went from"),
    "a default": (grows, "determinism", "gave another loss for the same model, batch and seed"),
    "Python's generator": (drawn, "determinism", "Python's global generator"),
    "a print": (printing, "effects", "prints"),
    "batches": (of_batches, "means", "weighs 1 together, and apart 2"),
    "a sum": (supervised(nn.CrossEntropyLoss(reduction="sum")), "means", "Say by weight= what it is a mean over"),
    "a part": (summed, "means", "gave total .* of both together"),
}


@pytest.mark.parametrize(("task", "law", "said"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_a_law_is_told(task: Any, law: str, said: str) -> None:
    dtype = torch.get_default_dtype()
    try:
        with pytest.raises(LawBrokenError, match=said) as caught:
            check_task(task, examples=2)
    finally:
        torch.set_default_dtype(dtype)
    assert caught.value.law == law
    assert "The smallest run that shows it: batches of " in str(caught.value)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 10)
        self.drop = nn.Dropout(0.5)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.out(self.drop(self.embed(words)))
        return out


def next_word(model: Words, batch: dict[str, Tensor]) -> StepOutput[Tensor]:
    """Give the mean over the words, each batch of another number of them."""
    words = batch["words"]
    scores = model(words[:, :-1]).flatten(0, 1)
    return StepOutput(cross_entropy(scores, words[:, 1:].flatten()), scores, weight=words[:, 1:].numel())


def test_other_batches_come_with_their_model() -> None:
    rows = [{"words": torch.arange(5).view(1, 5) + begin} for begin in range(3)]

    def cat(batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"words": torch.cat([batch["words"] for batch in batches])}

    check_task(next_word, Words(), rows, cat=cat)
    with pytest.raises(LawBrokenError, match="weighs 1 together, and apart 2"):
        check_task(lambda model, batch: replace(next_word(model, batch), weight=1), Words(), rows, cat=cat)
    check_task(lambda model, batch: replace(next_word(model, batch), weight=1), Words(), rows)  # as they are
    model = Words()
    with pytest.raises(LawBrokenError, match="uses the module that check_task was given") as caught:
        check_task(lambda _, batch: next_word(model, batch), model, rows)
    assert caught.value.law == "model"


def test_what_cannot_be_meant_is_refused() -> None:
    untyped: Any = check_task
    with pytest.raises(ConfigError, match="task is 3; expected a function"):
        untyped(3)
    with pytest.raises(ConfigError, match="batches is None; give the model and batches for it"):
        untyped(classified, OTHER)
    with pytest.raises(ConfigError, match="model is None; give the model and batches for it"):
        untyped(classified, batches=[])
    with pytest.raises(ConfigError, match="batches is empty"):
        check_task(classified, OTHER, [])
    with pytest.raises(ConfigError, match="model is 3; expected a module"):
        untyped(classified, 3, [1])
    with pytest.raises(ConfigError, match="cat is 3; expected a function of two batches"):
        untyped(classified, OTHER, [1], cat=3)
