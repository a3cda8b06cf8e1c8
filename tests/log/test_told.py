"""What tasks and updates tell, in the log and to sinks: groups' own rates, a short window, an eval without a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import DataLoaders, Learner, Objective, StepOutput, TrainState, Transition, fit_step, supervised
from nntrain.cli import nntrain
from nntrain.log import JsonLog, read, replay
from nntrain.log.events import BatchFinished, EpochFinished
from nntrain.log.export.curves import Curves
from nntrain.log.report.series import by_epoch, loss, metric
from nntrain.log.sentences import sentence
from nntrain.update import UpdateRule, accumulate, chain, clip_norm, optimizer

Batch = tuple[Tensor, Tensor]
TRAIN = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(5)]


def learner_of(update: UpdateRule, **arguments: Any) -> Learner[Batch]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    return Learner.of(model, DataLoaders(TRAIN, TRAIN[:1]), supervised(mse_loss), update, **arguments)


def halved(step: int) -> float:
    return 0.1 * 0.5**step


def logged(learner: Learner[Batch], path: Path, state: TrainState | None = None) -> list[Any]:
    with JsonLog(path, every=1) as log:
        fit_step(learner.replace(sinks=[log]), state or learner.init(), epochs=1)
    return [line.event for line in read(path)]


def test_groups_rates_are_logged_and_shown_to_sinks(tmp_path: Path) -> None:
    groups: dict[str, dict[str, Any]] = {"0.*": {"lr": halved}, "2.bias": {"lr": 0.5}, "2.weight": {"momentum": 0.5}}
    learner = learner_of(optimizer(torch.optim.SGD, lr=0.2, groups=groups))
    begun = learner.init().scale_lr(0.5)
    ran = [one for one in logged(learner, tmp_path / "log", begun) if isinstance(one, BatchFinished)]
    assert [one.lr for one in ran] == [0.1] * 5 + [None]
    rates_of_groups = [{"0.*": 0.5 * halved(step), "2.bias": 0.25} for step in range(5)]
    assert [dict(one.group_lrs or {}) for one in ran] == [*rates_of_groups, {}]
    rates: list[dict[str, float]] = []

    def sink(transition: Transition) -> None:
        rates.append(dict(transition.run.group_lrs_at(1)))

    fit_step(learner.replace(sinks=[sink]), learner.init(), epochs=1)
    assert rates[0] == {"0.*": halved(1), "2.bias": 0.5}


def test_without_rates_of_their_own_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert logged(learner_of(optimizer(torch.optim.SGD, lr=0.2, groups={"0.*": {"momentum": 0.5}})), path)
    assert "group_lrs" not in path.read_text()
    assert '"told"' not in path.read_text()


def test_objectives_rates_are_logged(tmp_path: Path) -> None:
    def rule(params: str, lr: Any, **groups: Any) -> UpdateRule:
        return optimizer(torch.optim.SGD, lr=lr, params=params, **groups)

    both = [
        Objective("d", supervised(mse_loss), rule("0.*", 0.1)),
        Objective("g", supervised(mse_loss), rule("2.*", halved, groups={"2.bias": {"lr": 0.3}})),
    ]
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    learner = Learner.of(model, DataLoaders(TRAIN), objectives=both)
    ran = [one for one in logged(learner, tmp_path / "log") if isinstance(one, BatchFinished)]
    assert [one.lr for one in ran] == [0.1] * 5
    assert [dict(one.group_lrs or {}) for one in ran] == [
        {"d": 0.1, "g": halved(step), "g.2.bias": 0.3} for step in range(5)
    ]


@pytest.mark.parametrize("batches", [4, 5])
def test_what_rules_tell_of_a_short_window(batches: int, tmp_path: Path) -> None:
    learner = learner_of(chain(accumulate(2), clip_norm(0.1), optimizer(torch.optim.SGD, lr=0.1)))
    learner = learner.replace(dls=DataLoaders(TRAIN[:batches], TRAIN[:1]))
    norms: list[float] = []
    rest: list[float] = []

    def sink(transition: Transition) -> None:
        if transition.output is not None and transition.output.told:
            norms.append(float(transition.output.told["grad_norm"]))
        rest.extend(float(one) for one in transition.told.values())

    state = fit_step(learner.replace(sinks=[sink]), learner.init(), epochs=1).state
    events = logged(learner, tmp_path / "log")
    told = [one.told for one in events if isinstance(one, EpochFinished)]
    assert len(norms) + len(rest) == state.progress.step
    if batches == 4:
        assert told == [None, None]
        return
    # The norm of the gradient of the last batch alone, at the weights that two steps have made.
    before = fit_step(learner.replace(dls=DataLoaders(TRAIN[:4])), learner.init(), epochs=1).state.to_module()
    gradients = torch.autograd.grad(mse_loss(before(TRAIN[4][0]), TRAIN[4][1]), list(before.parameters()))
    (norm,) = rest
    assert norm == pytest.approx(float(torch.nn.utils.get_total_norm(gradients)))
    assert told == [{"grad_norm": norm}, None]
    assert [one.metrics["grad_norm"] for one in events if isinstance(one, BatchFinished) if one.metrics] == norms


def test_an_eval_without_a_loss_is_no_nan(tmp_path: Path) -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        preds = model(batch[0])
        off = mse_loss(preds, batch[1])
        return StepOutput(off if model.training else None, preds, batch[1], parts={"off": off})

    path = tmp_path / "log.jsonl"
    learner = learner_of(optimizer(torch.optim.SGD, lr=0.1)).replace(task=task)
    with JsonLog(path, every=1) as log:
        state = fit_step(learner.replace(sinks=[log]), learner.init(), epochs=2).state
    with JsonLog(tmp_path / "other.jsonl") as log:  # begins amid the training, with what lies behind it
        fit_step(learner.replace(sinks=[log]), state, epochs=1)
    lines = list(read(path))
    (run,) = replay(lines)
    assert [one.has_loss for one in run.history] == [True, False] * 2
    (later,) = replay(read(tmp_path / "other.jsonl"))
    assert [one.has_loss for one in later.history] == [True, False] * 3
    evals = [one for one in lines if one.phase == "eval" and isinstance(one.event, (BatchFinished, EpochFinished))]
    assert [sentence(one).partition(": ")[2] for one in evals] == ["no loss"] * 4
    shown = CliRunner().invoke(nntrain, ["log", "show", str(path)]).output
    assert "nan" not in shown
    assert "–" in shown
    names = [point.curve for line in lines for point in Curves().points(line)]
    assert "off/eval" in names
    assert not {"loss/eval", "eval_batch/loss"} & set(names)
    drawn = {value: [series.phase for series in by_epoch(run, value, 60)] for value in (loss, metric("off"))}
    assert list(drawn.values()) == [["train"], ["train", "eval"]]
