"""`check_rule`: the laws for an update rule."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import torch

from nntrain.checkpoint import load, save
from nntrain.errors import CheckpointError
from nntrain.machine.learner import Learner
from nntrain.machine.steps import fit_step
from nntrain.testing.examples import check_examples, expect_callable, st
from nntrain.testing.gradient_series import ADVICE, all_series, check_series
from nntrain.testing.laws import LawBrokenError
from nntrain.testing.memory import attributes_of, memory_of
from nntrain.testing.plans import Batch, Plan, Trial, plans, runs_of, updated_learner
from nntrain.testing.traces import TraceChecker, TraceStep, compare_run, compare_turns, record_trace
from nntrain.update.chaining import Chain
from nntrain.update.chaining import check_rule as expect_rule
from nntrain.update.rule import UpdateRule
from nntrain.update.torch_rule import OptimizerRule, optimizer


@overload
def check_rule(rule: UpdateRule, *, examples: int = ..., device: torch.device | str = ...) -> None: ...
@overload
def check_rule(rule: UpdateRule, *, learner: Callable[[UpdateRule], Learner[Batch]], examples: int = ...) -> None: ...
def check_rule(
    rule: UpdateRule,
    *,
    learner: Callable[[UpdateRule], Learner[Any]] | None = None,
    examples: int = 15,
    device: torch.device | str = "cpu",
) -> None:
    """Check an update rule by the laws: alone, over `examples` series of gradients, and in generated trainings.

    A rule without an optimizer is put before an SGD; one that stands after it, like an average, is given with it:
    `check_rule(chain(optimizer(torch.optim.SGD, lr=0.1), my_average()))`. One for other parameters than those of the
    kit's small classifier needs `learner`: a function that makes a new learner of yours, updated by the rule it gets.

    Raises `LawBrokenError`: it is no frozen value ("value"); it gives what cannot be used, or tells a number that is
    not finite though the gradients are ("answers"); the same gradients come to something else ("determinism"), or do
    after going back ("branch") or in a new process ("resume"), so that something is remembered outside `memory`; it
    changes global state, torch's generators too ("manners"), or has effects. Its own exceptions pass through.
    """
    expect_rule(rule)
    if learner is not None:
        expect_callable(learner, "learner", "a function of the rule that makes a learner of yours")
    name = _name_of(rule)
    _check_value(rule, name)
    whole = _with_optimizer(rule)
    plain = optimizer(torch.optim.SGD, lr=0.1)
    params = (updated_learner(Plan(), plain, device=device) if learner is None else learner(plain)).init(0).params
    before = memory_of(rule)
    check_examples(lambda series: check_series(whole, name, params, series), all_series(), examples)
    if learner is None:
        runs = plans().map(lambda plan: _trial(plan, whole, device))
    else:
        runs = runs_of(lambda _: learner(whole), device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        drawn = st.tuples(runs, st.integers(0, 30))
        check_examples(lambda one: _check_training(name, path, *one), drawn, examples, describe=lambda one: str(one[0]))
    changed = [where for where, value in memory_of(rule).items() if before.get(where) != value]
    if changed:
        raise LawBrokenError("value", name, f"changed while it was used: {', '.join(changed)}. {ADVICE}")


def _name_of(rule: UpdateRule) -> str:
    return str(rule) if isinstance(rule, Chain) else type(rule).__name__


def _with_optimizer(rule: UpdateRule) -> Chain:
    """Return the rule as a chain that can train."""
    rules = rule.rules if isinstance(rule, Chain) else (rule,)
    if any(isinstance(one, OptimizerRule) for one in rules):
        return Chain(rules)
    return Chain((*rules, optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)))


def _check_value(rule: UpdateRule, name: str) -> None:
    """Check that a rule equals a copy of itself, and that nobody can change it."""
    copied = copy.copy(rule)
    if copied != rule:
        said = "does not equal a copy of itself, so that learners with it are not equal either"
        raise LawBrokenError("value", name, f"it {said}. Make its class a frozen dataclass: @dataclass(frozen=True)")
    for attribute, value in attributes_of(copied).items():
        try:
            setattr(copied, attribute, value)
        except (AttributeError, TypeError):
            continue
        said = f"its {attribute} can be set, and states were made with what it was"
        raise LawBrokenError("value", name, f"{said}. Make its class a frozen dataclass: @dataclass(frozen=True)")


def _trial(plan: Plan, rule: UpdateRule, device: torch.device | str) -> Trial[Any]:
    return Trial(lambda _: updated_learner(plan, rule, device=device), plan.epochs, plan.seed, str(plan))


def _check_training(name: str, path: Path, run: Trial[Batch], stop: int) -> None:
    """Check a training with the rule: repeated, resumed from its transition `stop`, and beside another."""
    straight = record_trace(run, [])
    found = compare_run(straight, run, [])
    if found:
        raise LawBrokenError("determinism", name, f"a second run is another one: {found}")
    _check_resumed(run, name, path, straight, stop % (len(straight) - 1))
    _check_turns(run, name, straight)


def _check_resumed(run: Trial[Batch], name: str, path: Path, straight: list[TraceStep], stop: int) -> None:
    """Check that a run is the same when a state is saved, loaded, and continued by a new learner."""
    before = straight[stop]
    try:
        save(before.state, path)
    except CheckpointError as error:
        raise LawBrokenError("resume", name, f"what it remembers cannot be saved: {error}") from error
    follower = TraceChecker(straight[stop + 1 :])
    learner = run.learner([], [follower])
    fit_step(learner, load(path, learner))
    found = follower.finish()
    if found:
        said = f"resumed runs differ. Gone on from the state after {before}: {found} (straight here, resumed there)"
        raise LawBrokenError("resume", name, f"{said}. {ADVICE}")


def _check_turns(run: Trial[Batch], name: str, straight: list[TraceStep]) -> None:
    """Check that two trainings that share a learner, and advance in turns, are as each is alone."""
    found = compare_turns(straight, run, [])
    if found:
        said = (
            f"depends on the order of the steps of two trainings that take turns: {found} (alone here, in turns there)"
        )
        raise LawBrokenError("branch", name, f"{said}. {ADVICE}")
