"""Who reads a value that no phase has is told so as soon as that can be known, with what there is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import DataLoaders, EarlyStopping, Interest, Learner, Objective, StepOutput, Transition, state_before
from nntrain.checkpoint import Checkpoint
from nntrain.errors import ConfigError, ConfigWarning
from nntrain.update import optimizer
from tests.metrics.own import Range  # compute gives "low" and "high"

Batch = tuple[Tensor, Tensor]
TRAIN = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(3)]
SGD = optimizer(torch.optim.SGD, lr=0.1)


class Reads:
    """A sink that reads a value."""

    def __init__(self, monitor: str) -> None:
        self.interest = Interest(monitors=(monitor,))

    def __call__(self, transition: Transition, /) -> None: ...


def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
    inputs, target = batch
    preds = model(inputs)
    return StepOutput(mse_loss(preds, target), preds, target, parts={"off": (preds - target).abs().mean()})


def without_loss(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
    made = task(model, batch)
    return made if model.training else StepOutput(None, made.preds, made.target, parts=made.parts)


def learner_of(given: Any, valid: Any = TRAIN, **arguments: Any) -> Learner[Batch]:
    torch.manual_seed(0)
    return Learner.of(nn.Linear(2, 1), DataLoaders(TRAIN, valid), given, SGD, **arguments)


@pytest.mark.parametrize("who", ["Checkpoint", "EarlyStopping", "Reads"])
def test_an_eval_without_a_loss(who: str, tmp_path: Path) -> None:
    reads: dict[str, Any] = {
        "Checkpoint": {"sinks": [Checkpoint(tmp_path, keep_best="loss")]},
        "EarlyStopping": {"subs": [EarlyStopping()]},
        "Reads": {"sinks": [Reads("eval/loss")]},
    }
    said = f"{who} monitors '(eval/)?loss'; the eval phase has off, and no loss"
    with pytest.raises(ConfigError, match=said) as told:
        learner_of(without_loss, **reads[who]).fit(2, print_stats=False)
    assert "StepOutput(loss, ...), or monitor 'off' or 'train/loss'" in str(told.value)
    before = state_before(told.value)
    assert before is not None
    assert (before.progress.phase, before.progress.batch, before.progress.step) == ("eval", 1, 3)
    learner_of(without_loss, sinks=[Reads("off"), Reads("train/loss")]).fit(1, print_stats=False)


def test_a_set_without_a_loss_among_others() -> None:
    valid = {"near": [(inputs, target) for inputs, target in TRAIN], "bare": [(inputs, None) for inputs, _ in TRAIN]}

    def by_set(model: nn.Module, batch: Any) -> StepOutput[Tensor]:
        return StepOutput(None, model(batch[0]), weight=4) if batch[1] is None else task(model, batch)

    learner_of(by_set, valid, sinks=[Reads("near/loss")]).fit(1, print_stats=False)
    with pytest.raises(ConfigError, match="Reads monitors 'bare/loss'; the bare phase has no value, and no loss"):
        learner_of(by_set, valid, sinks=[Reads("bare/loss")]).fit(1, print_stats=False)


def test_a_misspelt_part_is_warned_of_at_the_first_batch_and_ends_the_first_of_eval() -> None:
    said = "Reads monitors 'offf'; the eval phase has loss, off. Did you mean 'off'?"
    with (
        pytest.warns(ConfigWarning, match="Reads monitors 'offf', which a batch of training does not have.*'off'"),
        pytest.raises(ConfigError, match=said) as told,
    ):
        learner_of(task, sinks=[Reads("offf")]).fit(2, print_stats=False)
    before = state_before(told.value)
    assert before is not None
    assert (before.progress.phase, before.progress.batch) == ("eval", 1)


def test_a_misspelt_part_of_training_ends_its_first_batch() -> None:
    with pytest.raises(ConfigError, match="Reads monitors 'train/offf'; the train phase has loss, off") as told:
        learner_of(task, sinks=[Reads("train/offf")]).fit(1, print_stats=False)
    before = state_before(told.value)
    assert before is not None
    assert before.progress.step == 1


def test_a_part_of_eval_alone_is_warned_of_and_no_more() -> None:
    def eval_alone(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        made = task(model, batch)
        return StepOutput(made.loss, made.preds, made.target) if model.training else made

    with pytest.warns(ConfigWarning, match="'off'") as told:
        learner_of(eval_alone, sinks=[Reads("off")]).fit(2, print_stats=False)
    assert len(told) == 1


def test_what_there_is_is_not_warned_of() -> None:
    metrics = {"range": Range()}
    reads = [Reads(name) for name in ("off", "loss", "train/off", "eval/off", "range/low", "range/high")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner_of(task, metrics=metrics, sinks=reads).fit(2, print_stats=False)
    with pytest.raises(ConfigError, match="Reads monitors 'range/lo'; the eval phase has loss, off, range/low"):
        learner_of(task, metrics=metrics, sinks=[Reads("range/lo")]).fit(1, print_stats=False)


def test_of_several_objectives() -> None:
    rules = [optimizer(torch.optim.SGD, lr=0.1, params=params) for params in ("0.*", "1.*")]
    both = [Objective("one", task, rules[0]), Objective("other", task, rules[1])]
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    made = Learner.of(model, DataLoaders(TRAIN, TRAIN), objectives=both, sinks=[Reads("one.off"), Reads("other")])
    made.fit(1, print_stats=False)
    with pytest.raises(ConfigError, match=r"'train/one.of'; the train phase has loss, one, one.off, other, other.off"):
        made.replace(sinks=[Reads("train/one.of")]).fit(1, print_stats=False)
