"""`gradient_norms` tells the norms that a hand-written loop computes, and changes no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, Objective, StepOutput, Transition
from nntrain.errors import ConfigError
from nntrain.log import BatchFinished, JsonLog, read
from nntrain.update import chain, clip_norm, gradient_norms, optimizer
from nntrain.update.norms import BoundGradientNorms
from nntrain.update.rule import At
from tests.update.test_more_rules import assert_resumes
from tests.update.test_rules import DATA, SGD, Net, by_hand, fitted, learner_of, make_model

GROUPS = {"body.*": "body.0.weight body.0.bias body.1.weight body.1.bias", "head.*": "head.weight head.bias"}
LAYERS = {"body.0": "body.0.weight body.0.bias", "body.1": "body.1.weight body.1.bias", "head": "head.weight head.bias"}


@pytest.mark.parametrize(("rule", "groups"), [(gradient_norms(*GROUPS), GROUPS), (gradient_norms(), LAYERS)])
def test_they_are_those_of_a_hand_written_loop_and_no_bit_changes(
    rule: Any, groups: dict[str, str], tmp_path: Path
) -> None:
    expected: list[dict[str, float]] = []

    def norms(model: nn.Module, *_: object) -> None:
        grads = {name: param.grad for name, param in model.named_parameters() if param.grad is not None}
        found = {"grad_norm": torch.nn.utils.get_total_norm([*grads.values()]).item()}
        for group, names in groups.items():
            found[f"grad_norm/{group}"] = torch.nn.utils.get_total_norm([grads[one] for one in names.split()]).item()
        expected.append(found)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)

    model = by_hand(lambda model: SGD(model.parameters(), lr=0.1), norms)
    with JsonLog(tmp_path / "log.jsonl", every="all") as log:
        state = fitted(chain(rule, clip_norm(0.5), optimizer(SGD, lr=0.1)), sinks=[log])
    for name, param in model.named_parameters():
        assert torch.equal(state.params[name], param)
    told = [
        {name: value for name, value in line.event.metrics.items() if name.startswith("grad_norm")}
        for line in read(tmp_path / "log.jsonl")
        if isinstance(line.event, BatchFinished) and line.phase == "train"
    ]
    assert len(told) == len(expected) == 10
    for mine, theirs in zip(told, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_it_resumes(tmp_path: Path) -> None:
    assert_resumes(chain(gradient_norms(), optimizer(SGD, lr=0.1)), tmp_path)


def test_a_parameter_without_a_gradient_counts_as_0_and_sparse_ones_have_their_norm() -> None:
    params = {name: torch.zeros(3, 2) for name in ("a.w", "b.w", "c")}
    rule = gradient_norms().bind(params)
    assert isinstance(rule, BoundGradientNorms)
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]]), (3, 2), check_invariants=True
    )
    assert rule.write({"a.w": sparse, "c": torch.full((3, 2), 2.0)}, At(0))
    told = {name: one.item() for name, one in rule.told.items()}
    assert told == pytest.approx({"grad_norm": 7.0, "grad_norm/a": 5.0, "grad_norm/b": 0.0, "grad_norm/c": 24**0.5})
    assert rule.write({}, At(1))
    assert [one.item() for one in rule.told.values()] == [0.0] * 4
    assert rule.write({"a.w": torch.full((3, 2), torch.inf), "c": torch.ones(3, 2)}, At(2))
    assert [one.item() for one in rule.told.values()] == pytest.approx([torch.inf, torch.inf, 0.0, 6**0.5])


def test_of_several_objectives_each_tells_its_own() -> None:
    def task(model: Net, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        preds = model(batch[0])
        return StepOutput(cross_entropy(preds, batch[1]), preds)

    objectives = [
        Objective(name, task, chain(gradient_norms(), optimizer(SGD, lr=0.1, params=pattern)))
        for name, pattern in (("one", "head.*"), ("other", "body.*"))
    ]
    told: list[set[str]] = []

    def note(transition: Transition) -> None:
        if transition.output is not None:
            told.append(set(transition.output.told))

    learner: Learner[Any, Any] = Learner.of(
        make_model(), DataLoaders(DATA[:1], None), objectives=objectives, sinks=[note]
    )
    learner.fit(1, print_stats=False)
    assert told == [
        {"one.grad_norm", "one.grad_norm/head", "other.grad_norm", "other.grad_norm/body.0", "other.grad_norm/body.1"}
    ]


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="gradient_norms takes patterns"):
        gradient_norms(3)  # type: ignore[arg-type] # the mistake
    with pytest.raises(ConfigError, match="a pattern twice"):
        gradient_norms("a", "a")
    with pytest.raises(ConfigError, match=r"gradient_norms has 'haed.*', which matches no parameter"):
        learner_of(chain(gradient_norms("haed.*"), optimizer(SGD, lr=0.1))).init()
    with pytest.raises(ConfigError, match="stands after the optimizer"):
        chain(optimizer(SGD, lr=0.1), gradient_norms())
