"""The kit's own mutation tests: subscribers that break each law in two ways and more, and those that break none."""

from __future__ import annotations

import datetime
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nntrain import (
    BatchOutput,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    DataLoaders,
    Learner,
    Record,
    Slot,
    Subscriber,
    TrainState,
    on,
)
from nntrain.errors import ConfigError
from nntrain.subscribers.protocol import AnswerBatch, AnswerEpoch, AnswerFit
from nntrain.testing import LawBrokenError, check_subscriber
from tests.laws.strategies import Rolls

Batch = tuple[Tensor, Tensor]


class Tally(Record, frozen=True):
    batches: int = 0


TALLY = Slot("kit.tally", Tally, default=Tally())


class Counts(Subscriber[object]):
    """Its memory is in the state: it breaks nothing."""

    def before_batch(self, state: TrainState, batch: object) -> AnswerBatch:
        tally = state.get(TALLY)
        if tally.batches == 3:
            return CancelBatch(reason="the fourth", state=state.put(TALLY, Tally(batches=tally.batches + 1)))
        return state.put(TALLY, Tally(batches=tally.batches + 1))


class Caches(Subscriber[object]):
    """Works something out once, which is no memory."""

    names: tuple[str, ...] | None = None

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        if self.names is None:
            self.names = tuple(state.params)
        return state if self.names else CancelEpoch(reason="no weights")


class Draws(Subscriber[object]):
    """Draws from torch's generator, which the state's key rules."""

    def before_batch(self, state: TrainState, batch: object) -> AnswerBatch:
        return CancelBatch(reason="chance") if torch.rand(()) < 0.3 else state


@on("after_epoch")
def halves(state: TrainState) -> TrainState | CancelFit:
    return state.scale_lr(0.5) if state.progress.phase == "train" else state


GOOD: dict[str, Callable[[], Any]] = {
    "a slot": Counts,
    "a cache": Caches,
    "torch's generator": Draws,
    "all events": Rolls,
    "a function": lambda: halves,
    "nothing": Subscriber[object],
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("examples", [2, pytest.param(6, marks=pytest.mark.sweep)])
def test_what_breaks_no_law_passes(make: Callable[[], Any], device: torch.device, examples: int) -> None:
    check_subscriber(make, examples=examples, device=device)


class AnswersNothing(Subscriber[object]):
    def after_epoch(self, state: TrainState) -> Any:
        return None


class CancelsWhatDoesNotRun(Subscriber[object]):
    def before_fit(self, state: TrainState) -> Any:
        return CancelBatch(reason="too early")


class AnswersAnotherPlace(Subscriber[object]):
    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        return state.model_copy(update={"progress": state.progress.model_copy(update={"at": "batch"})})


class WritesToWhatItBorrows(Subscriber[object]):
    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        with state.borrow() as tensors:
            tensors["0.weight"].mul_(0.9)
        return state


class WritesToTheBatch(Subscriber[Batch]):
    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        batch[0].add_(1)
        return state


class WritesToTheOutput(Subscriber[Batch]):
    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        assert isinstance(output.preds, Tensor)
        output.preds.zero_()
        return state


class WritesToTheWeights(Subscriber[object]):
    """Past every guard: into the memory itself."""

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        def write(snapshot: Any) -> None:
            snapshot.params["0.weight"].detach().add_(1)

        state.tensors.read(write)
        return state


class ReadsTheClock(Subscriber[object]):
    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        return CancelFit(reason="an hour is over") if time.monotonic() > 1e12 else state


class ReadsTheDate(Subscriber[object]):
    def before_fit(self, state: TrainState) -> AnswerFit:
        return CancelFit(reason="late") if datetime.datetime.now(datetime.UTC).year > 9000 else state


class DrawsFromPython(Subscriber[object]):
    def before_batch(self, state: TrainState, batch: object) -> AnswerBatch:
        return CancelBatch(reason="chance") if random.randint(0, 9) == 0 else state


class DrawsFromTheSystem(Subscriber[object]):
    def before_batch(self, state: TrainState, batch: object) -> AnswerBatch:
        return state.put(TALLY, Tally(batches=os.urandom(1)[0]))


NUMBERS = itertools.count()


class AnswersFromTheProcess(Subscriber[object]):
    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        return CancelEpoch(reason=f"number {next(NUMBERS)}")


class StopsAt(Subscriber[object]):
    def __init__(self, last: int) -> None:
        self.last = last
        self.epochs = 0

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        self.epochs += 1
        return CancelFit(reason="enough") if self.epochs == self.last else state


class CountsInAGlobal(Subscriber[object]):
    counted: dict[str, int] = {"batches": 0}  # noqa: RUF012 - the mistake

    def before_batch(self, state: TrainState, batch: object) -> AnswerBatch:
        self.counted["batches"] += 1
        return state


class CountsTowardsFar(Subscriber[object]):
    """Nothing shows in a small run, but that it counts."""

    def __init__(self) -> None:
        self.batches = 0

    def before_batch(self, state: TrainState, batch: object) -> AnswerBatch:
        self.batches += 1
        return CancelFit(reason="a million") if self.batches == 1_000_000 else state


class KeepsTheBest(Subscriber[object]):
    """Each state that is kept costs a copy of the weights, and is gone after a kill."""

    best: TrainState | None = None

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        self.best = state
        return state


class Unsavable(Record, frozen=True):
    function: Any = None


UNSAVABLE = Slot("kit.unsavable", Unsavable, default=Unsavable())


class KeepsWhatNoFileHolds(Subscriber[object]):
    def before_fit(self, state: TrainState) -> AnswerFit:
        return state.put(UNSAVABLE, Unsavable(function=len))


def closes_over() -> Subscriber[object]:
    seen = 0

    @on("after_epoch")
    def third(state: TrainState) -> TrainState | CancelEpoch:
        nonlocal seen
        seen += 1
        return CancelEpoch(reason="third") if seen % 3 == 0 else state

    return third


class SetsTheDefaultDtype(Subscriber[object]):
    def before_fit(self, state: TrainState) -> AnswerFit:
        torch.set_default_dtype(torch.float64)
        return state


class SeedsNumpy(Subscriber[object]):
    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        np.random.seed(state.progress.epoch)
        return state


class Prints(Subscriber[object]):
    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        print(state)
        return state


class WritesAFile(Subscriber[object]):
    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        Path(os.devnull).write_text(str(state), encoding="utf-8")
        return state


class Logs(Subscriber[object]):
    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        logging.getLogger("kit").warning("an epoch is over")
        return state


class StartsAThread(Subscriber[object]):
    def before_fit(self, state: TrainState) -> AnswerFit:
        threading.Thread(target=str).start()
        return state


BROKEN: dict[str, tuple[Callable[[], Any], str, str]] = {
    "no answer": (AnswersNothing, "answers", r"returned None \(is `return state` missing\?\)"),
    "a verdict of no scope": (CancelsWhatDoesNotRun, "answers", "no batch runs at before_fit"),
    "a state of another place": (AnswersAnotherPlace, "answers", "stands at batch"),
    "a borrowed tensor": (WritesToWhatItBorrows, "immutability", "wrote to a borrowed tensor"),
    "the batch": (WritesToTheBatch, "immutability", "wrote to the batch"),
    "the output": (WritesToTheOutput, "immutability", "wrote to the output"),
    "the weights": (WritesToTheWeights, "immutability", "wrote to the tensors of the state"),
    "the clock": (ReadsTheClock, "determinism", r"reads the wall clock, by time.monotonic \(line \d+ of test_check"),
    "the date": (ReadsTheDate, "determinism", "reads the wall clock, by datetime.now"),
    "Python's generator": (DrawsFromPython, "determinism", "draws from Python's global generator"),
    "the system's bytes": (DrawsFromTheSystem, "determinism", "draws random bytes from the system"),
    "the process": (AnswersFromTheProcess, "resume", "resumed runs differ"),
    "an attribute": (
        lambda: StopsAt(2),
        "resume",
        r"its memory is not in the state: resumed runs differ. self.epochs went from 1 to 2 at after_epoch. "
        r"Keep it in a Slot: state.put\(slot, value\).\n"
        r"  Gone on from the state after after_epoch of epoch 0, train, batch 1",
    ),
    "an attribute in turns": (
        lambda: StopsAt(3),
        "branch",
        "depends on the order of the steps of two trainings that take turns. self.epochs went from",
    ),
    "an attribute of the class": (CountsInAGlobal, "resume", "CountsInAGlobal.counted went from"),
    "an attribute that does not show": (CountsTowardsFar, "resume", "self.batches went from 1 to 2 at before_batch"),
    "a kept state": (KeepsTheBest, "resume", "self.best went from a TrainState"),
    "what cannot be saved": (KeepsWhatNoFileHolds, "resume", "what it keeps cannot be saved"),
    "a closure": (closes_over, "branch", "seen, which third closes over went from"),
    "the default dtype": (SetsTheDefaultDtype, "manners", "before_fit changed torch's default dtype"),
    "NumPy's generator": (SeedsNumpy, "manners", "changed NumPy's global generator"),
    "a print": (Prints, "effects", "after_epoch prints"),
    "a file": (WritesAFile, "effects", "opens a file"),
    "logging": (Logs, "effects", r"logs, by logging; answer with state.log\(event\)"),
    "a thread": (StartsAThread, "effects", "starts a thread"),
}


@pytest.mark.parametrize(("make", "law", "said"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_a_law_is_told(make: Callable[[], Any], law: str, said: str) -> None:
    dtype, numpy = torch.get_default_dtype(), np.random.get_state()
    try:
        with pytest.raises(LawBrokenError, match=said) as caught:
            check_subscriber(make)
    finally:
        torch.set_default_dtype(dtype)
        np.random.set_state(numpy)
    assert caught.value.law == law
    assert "The smallest run that shows it: epochs=" in str(caught.value)


def test_each_law_has_two_that_break_it() -> None:
    laws = [law for _, law, _ in BROKEN.values()]
    assert {law for law in laws if laws.count(law) >= 2} == {
        "answers",
        "immutability",
        "determinism",
        "resume",
        "branch",
        "manners",
        "effects",
    }


class Grows(Subscriber[object]):
    """Remembers, under a name of its own that nobody can look into, what it is resumed with."""

    def __init__(self) -> None:
        self.asked = iter(range(1_000_000))

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        return CancelEpoch(reason="odd") if next(self.asked) % 2 else state


def test_a_memory_that_cannot_be_looked_into_shows_in_what_it_does() -> None:
    with pytest.raises(LawBrokenError, match="resumed runs differ") as caught:
        check_subscriber(Grows)
    assert caught.value.law == "resume"


class Words(Subscriber[dict[str, Tensor]]):
    """For batches of another kind."""

    def before_batch(self, state: TrainState, batch: dict[str, Tensor]) -> AnswerBatch:
        return CancelBatch(reason="short") if batch["words"].shape[1] < 4 else state


class WordsThatWrite(Words):
    def before_batch(self, state: TrainState, batch: dict[str, Tensor]) -> AnswerBatch:
        batch["words"].zero_()
        return state


def learner_of_words(subs: Any) -> Learner[dict[str, Tensor]]:
    batches = [{"words": torch.ones(2, length), "target": torch.zeros(2, 1)} for length in (5, 5)]
    return Learner(
        nn.Linear(5, 1),
        DataLoaders(batches, batches),
        nn.functional.mse_loss,
        nn.functional.l1_loss,
        torch.optim.Adam,
        0.1,
        subs,
    )


def test_other_batches_are_those_of_ones_own_learner() -> None:
    check_subscriber(Words, learner=learner_of_words, examples=4)
    with pytest.raises(LawBrokenError, match="wrote to the batch") as caught:
        check_subscriber(WordsThatWrite, learner=learner_of_words)
    assert "your learner, epochs=1, seed=0" in str(caught.value)


class Raises(Subscriber[object]):
    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        raise KeyError("mine")


def test_an_error_of_its_own_passes_on() -> None:
    with pytest.raises(KeyError, match="mine"):
        check_subscriber(Raises)


def test_what_cannot_be_meant_is_refused() -> None:
    instance: Any = Counts()
    with pytest.raises(ConfigError, match="expected what makes a new subscriber each time"):
        check_subscriber(instance)
    with pytest.raises(ConfigError, match="examples is 0"):
        check_subscriber(Counts, examples=0)


def test_it_leaves_the_generators_as_they_were() -> None:
    before = random.getstate(), torch.get_rng_state()
    check_subscriber(Draws, examples=2)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
