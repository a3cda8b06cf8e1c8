"""Law 7, replay: the history rebuilt from the log is the history of the state.

Programs of fits, single steps, failures, cancels, returns to kept states and changes of process write one file. For
each run in it, the replayed history is that of the state which its last line told of.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from nntrain import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Learner,
    Outcome,
    Subscriber,
    TrainState,
    accuracy,
    advance,
    batch_step,
    epoch_step,
    fit_step,
    state_before,
)
from nntrain.log import JsonLog, LogEvent, replay
from nntrain.log import read as read_log
from nntrain.subscribers.protocol import AnswerBatch, AnswerEpoch, AnswerFit
from nntrain.values.history import History
from nntrain.values.output import BatchOutput
from tests.laws.strategies import ALL_SETS, Batch, Setup, setups

Deed = Literal["state", "log", "batch", "epoch", "fit", "fail", "rewrite"]


class Marked(LogEvent, frozen=True):
    """An event of a subscriber's own."""

    event: Literal["laws.marked"] = "laws.marked"
    value: float
    text: str = ""


class BlownError(Exception):
    """The script's own failure."""


@dataclass(frozen=True)
class Script(Subscriber[Batch]):
    """Does what is written for the n-th time that it is asked; the count is of the process, as a crash's is."""

    deeds: tuple[Deed, ...]
    asked: list[int]

    def _deed(self) -> Deed:
        self.asked[0] += 1
        return self.deeds[(self.asked[0] - 1) % len(self.deeds)]

    def _acted(self, state: TrainState, deed: Deed) -> TrainState:
        if deed == "fail":
            raise BlownError(f"\ud800 {deed}\n\x1b[31m")
        if deed == "log":
            return state.log(Marked(value=math.nan, text="größer\n\u2028\x9b"))
        if deed == "rewrite" and state.history:
            # A subscriber may answer with any state: one that has forgotten its last phase, for example.
            return state.model_copy(update={"history": History(state.history[:-1])})
        return state

    def _for_fit(self, state: TrainState) -> AnswerFit:
        deed = self._deed()
        return CancelFit(reason="fit\n") if deed == "fit" else self._acted(state, deed)

    def _for_epoch(self, state: TrainState) -> AnswerEpoch:
        deed = self._deed()
        if deed == "epoch":
            return CancelEpoch(reason="\ud800", state=self._acted(state, "log"))
        return CancelFit(reason="fit\n") if deed == "fit" else self._acted(state, deed)

    def _for_batch(self, state: TrainState) -> AnswerBatch:
        deed = self._deed()
        if deed == "batch":
            return CancelBatch()
        if deed == "epoch":
            return CancelEpoch()
        return CancelFit() if deed == "fit" else self._acted(state, deed)

    def before_fit(self, state: TrainState) -> AnswerFit:
        """Do what comes next."""
        return self._for_fit(state)

    def after_fit(self, state: TrainState) -> AnswerFit:
        """Do what comes next."""
        return self._for_fit(state)

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        """Do what comes next."""
        return self._for_epoch(state)

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """Do what comes next."""
        return self._for_epoch(state)

    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        """Do what comes next."""
        return self._for_batch(state)

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        """Do what comes next."""
        return self._for_batch(state)


@dataclass(frozen=True)
class Program:
    """A configuration, and what is done with it."""

    setup: Setup
    deeds: tuple[Deed, ...]
    loss: float | None
    every: int | Literal["all"] | None
    steps: tuple[tuple[str, int], ...]

    def learner(self, log: JsonLog, asked: list[int]) -> Learner[Batch]:
        """Make a learner that tells `log`."""
        learner = self.setup.learner([Script(self.deeds, asked)] if self.deeds else [], [log])
        value = self.loss
        if value is None:
            return learner

        def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
            return cross_entropy(preds, target) * 0 + torch.tensor(value, device=preds.device)

        plain: Any = lambda p, t: value  # noqa: E731 - a float where a tensor is due: what untyped callers may give
        return learner.replace(loss_fn=loss_fn, metric_fn={"odd.name": plain, "good": accuracy})


DEEDS: Final[tuple[Deed, ...]] = ("state", "state", "state", "log", "batch", "epoch", "fit", "fail", "rewrite")
STEPS: Final = ("fit", "fit", "fit_on", "advance", "epoch", "batch", "go_back", "go_back", "process", "seed")
programs = st.builds(
    Program,
    setup=setups(models=("linear", "batch_norm"), optimizers=("sgd", "adam"), sets=ALL_SETS),
    deeds=st.one_of(st.just(()), st.lists(st.sampled_from(DEEDS), min_size=5, max_size=40).map(tuple)),
    loss=st.sampled_from([None, None, math.nan, math.inf, -math.inf, math.copysign(math.nan, -1.0)]),
    every=st.sampled_from([None, 1, 2, "all"]),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 20)), min_size=1, max_size=12).map(tuple),
)


class World:
    """The file, the log that writes it, the learner that tells it, and the state that is at hand."""

    def __init__(self, program: Program, path: Path) -> None:
        self.program = program
        self.path = path
        self.asked = [0]
        self.log = JsonLog(path, every=program.every, sync="never")
        self.learner = program.learner(self.log, self.asked)
        self.state = self.learner.init(epochs=1)
        self.kept = [self.state]
        self.expected: dict[str, History] = {}

    def do(self, what: str, number: int) -> None:
        """Take one step of the program, and note what the run that it told of is to be replayed to."""
        told = self._lines()
        match what:
            case "fit" if number > 15 and not self.program.deeds:  # else every batch may be cancelled, for ever
                self._try(lambda: fit_step(self.learner, self.state, steps=number % 6 + self.state.progress.step + 1))
            case "fit":
                self._try(lambda: fit_step(self.learner, self.state, number % 4))
            case "fit_on" if self.state.progress.at not in {"before_fit", "finished"}:
                self._try(lambda: fit_step(self.learner, self.state))
            case "advance" if self.state.progress.at != "finished" and (
                self.state.progress.epochs or self.state.progress.until
            ):
                self._try(lambda: advance(self.learner, self.state))
            case "epoch" if self.state.progress.at != "finished":
                self._try(lambda: epoch_step(self.learner, self.state))
            case "batch" if self.state.progress.at not in {"after_epoch", "after_fit"}:
                self._try(lambda: batch_step(self.learner, self.state, self.program.setup.batches("train")[0]))
            case "go_back":
                self.state = self.kept[number % len(self.kept)]
            case "process":
                self.log.close()
                self.log = JsonLog(self.path, every=self.program.every, sync="never", resume=True)
                self.learner = self.program.learner(self.log, self.asked)
                self.state = copy.deepcopy(self.state)
            case "seed":
                self.state = self.learner.init(seed=number, epochs=number % 4)
            case _:
                pass
        self.kept.append(self.state)
        after = self._lines()
        if len(after) > len(told):
            self.expected[after[-1]["run_id"]] = self.state.history

    def _try(self, step: Any) -> None:
        try:
            outcome: Outcome = step()
        except BlownError as error:
            before = state_before(error)
            assert before is not None
            self.state = before
        else:
            assert outcome.sink_failures == {}
            assert outcome.state.logged == ()
            self.state = outcome.state

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1]] if self.path.exists() else []

    def check(self) -> None:
        """Hold the law."""
        self.log.close()
        if not self.expected:
            return
        lines = list(read_log(self.path))
        runs = replay(lines)
        assert {run.run_id: run.history for run in runs} == self.expected
        counts: defaultdict[str, Iterator[int]] = defaultdict(lambda: iter(range(10**9)))
        for line, raw in zip(lines, self.path.read_bytes().split(b"\n"), strict=False):
            assert line.seq == next(counts[line.run_id])
            assert line.fields() == json.loads(raw)
            assert raw.isascii() or not set("\x7f\x9b\u2028") & set(raw.decode())


@given(program=programs)
def test_the_history_rebuilt_from_the_log_is_the_history_of_the_state(program: Program, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        world = World(replace(program, setup=program.setup.on(device)), Path(folder) / "run.jsonl")
        for what, number in program.steps:
            world.do(what, number)
        world.check()


@pytest.mark.parametrize("every", [None, 2, "all"])
def test_a_run_is_its_outcome_too(tmp_path: Path, every: Literal["all"] | int | None) -> None:
    path = tmp_path / "run.jsonl"
    setup = Setup(train=(4,) * 4, valid=(4,) * 2)
    with JsonLog(path, every=every) as log:
        learner = setup.learner(sinks=[log])
        state = fit_step(learner, learner.init(), 2).state
        (done,) = replay(read_log(path))
        assert (done.outcome, done.epochs, done.missing) == ("completed", 2, 0)
        kept = state
        fit_step(learner, state, 2)
        state = fit_step(learner, kept, 1).state
    (run,) = replay(read_log(path))
    assert run.history == state.history
    assert run.epochs == 3
    if every is not None:
        steps = [line.step for line in run.batches if line.phase == "train"]
        assert steps == sorted(set(steps)), "batches of a branch that was left are none of the run's"
        assert max(steps) == 12
