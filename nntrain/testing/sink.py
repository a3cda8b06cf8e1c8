"""`check_sink`: the laws for a sink."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Generic, overload

import torch

from nntrain.errors import BorrowError, SinkWarning
from nntrain.machine.steps import fit_step
from nntrain.sinks.interest import Sink, interest_of, sink_name
from nntrain.sinks.transition import BatchRan, RunInfo, Transition
from nntrain.subscribers.protocol import AnswerBatch, Listening, Subscriber
from nntrain.testing.copies import copy_parts, writable_parts
from nntrain.testing.examples import check_examples, expect_callable, st
from nntrain.testing.laws import Law, LawBrokenError
from nntrain.testing.plans import Batch, MakeLearner, Trial, runs_of
from nntrain.testing.purity import changed_parts, process_state
from nntrain.testing.traces import compare_run, place, record_trace
from nntrain.values.bits import same_bits
from nntrain.values.output import BatchOutput
from nntrain.values.state import TrainState
from nntrain.values.tensors import Tensors
from nntrain.values.verdicts import Cancel, CancelBatch, CancelEpoch, CancelFit

_MOST_KEPT: Final = 2
"""How many states a sink may keep, such as the last and the best."""


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in a run: a verdict before batch `at`, or an error after it."""

    at: int
    what: type[Cancel] | None

    def __str__(self) -> str:
        return f"{self.what.__name__ if self.what else 'an error'} at its batch {self.at}"


class _TroubleError(Exception):
    """An error that the kit raises in a run, to see what a sink does."""


class _TroubleMaker(Subscriber[object]):
    """Answers with a verdict, or fails, at a batch of the first phase."""

    order = -1

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble

    def before_batch(self, state: TrainState, batch: object) -> AnswerBatch:  # noqa: ARG002 - as the event has it
        """Answer with the verdict."""
        what, progress = self.trouble.what, state.progress
        if what is not None and (progress.epoch, progress.phase, progress.batch) == (0, "train", self.trouble.at):
            return what(reason="for the sink's sake")
        return state

    def after_batch(self, state: TrainState, batch: object, output: BatchOutput) -> TrainState:  # noqa: ARG002 - same
        """Fail."""
        if self.trouble.what is None and state.progress.batch == self.trouble.at + 1:
            raise _TroubleError(f"{self.trouble}, for the sink's sake")
        return state


class _SinkProbe(Generic[Batch]):
    """Wraps a sink, wants what it wants, and checks what it does."""

    def __init__(self, inner: Sink) -> None:
        self.inner = inner
        self.name = sink_name(inner)
        self.handles: list[weakref.ref[Tensors]] = []
        self.failure: tuple[str, Exception] | None = None
        self.broken: LawBrokenError | None = None
        self._wanted = interest_of(inner)
        self.interest = replace(self._wanted, batches=None if self._wanted.batches is None else self._batches)

    def __call__(self, transition: Transition, /) -> None:
        """Pass the transition on, and check what the sink does."""
        if not any(kept() is transition.state.tensors for kept in self.handles):
            self.handles.append(weakref.ref(transition.state.tensors))
        output, state = transition.output, transition.state
        before = copy_parts(output), copy_parts(state)
        where = f"at {transition.event or transition.at} of {place(transition.progress)}"
        self._shown(where, lambda: self.inner(transition))
        if not same_bits(before[0], writable_parts(output)):
            self._break("immutability", f"{where} it wrote to the output, which other sinks are shown")
        if not same_bits(before[1], writable_parts(state)):
            self._break("immutability", f"{where} it wrote to the tensors of the state")

    def _batches(self, run: RunInfo, ran: Sequence[BatchRan], /) -> None:
        batches = self._wanted.batches
        if batches is not None:
            self._shown("given batches in a group", lambda: batches(run, ran))

    def _shown(self, where: str, show: Callable[[], object]) -> None:
        before = process_state()
        try:
            show()
        except BorrowError as error:
            self._break("immutability", f"{where} it wrote to a borrowed tensor. {error}")
        except Exception as error:
            self.failure = self.failure or (where, error)
            raise
        finally:
            moved = changed_parts(before, process_state())
            if moved:
                self._break("manners", f"{where} it changed {' and '.join(moved)}")

    def _break(self, law: Law, said: str) -> None:
        self.broken = self.broken or LawBrokenError(law, self.name, said)

    def check(self) -> None:
        """Raise the first broken law that was found."""
        if self.broken is not None:
            raise self.broken
        if self.failure is not None:
            where, error = self.failure
            said = f"{where} it failed: {type(error).__name__}: {error}"
            raise LawBrokenError("observers", self.name, said) from error


@overload
def check_sink(make: Callable[[], Sink], *, examples: int = ..., device: torch.device | str = ...) -> None: ...
@overload
def check_sink(make: Callable[[], Sink], *, learner: MakeLearner[Batch], examples: int = ...) -> None: ...
def check_sink(
    make: Callable[[], Sink],
    *,
    learner: MakeLearner[Any] | None = None,
    examples: int = 15,
    device: torch.device | str = "cpu",
) -> None:
    """Check a sink by the laws, over `examples` generated runs: some are cancelled, some fail, some have NaN losses.

    `make` returns a new sink each time. It may have effects, and a memory; it must not change the training.

    Raises `LawBrokenError`, with the smallest run that shows it: the training differs with it, or it fails at a
    transition ("observers"), it writes to a state or an output ("immutability"), changes global state of the process
    ("manners"), or keeps states, each of which costs a copy of the weights ("no waste").
    """
    expect_callable(make, "make", "what makes a new sink each time: a class, or a lambda")
    expect_callable(make(), "What make gives", "a sink, which is called with a Transition: check_sink(lambda: my_sink)")
    runs = runs_of(learner, device)
    troubles = st.none() | st.builds(
        Trouble, at=st.integers(0, 2), what=st.sampled_from([None, CancelBatch, CancelEpoch, CancelFit])
    )
    drawn = st.tuples(runs, troubles)
    check_examples(
        partial(_check, make),
        drawn,
        examples,
        describe=lambda pair: ", ".join(str(one) for one in pair if one is not None),
    )


def _check(make: Callable[[], Sink], drawn: tuple[Trial[Batch], Trouble | None]) -> None:
    run, trouble = drawn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SinkWarning)  # its failures become broken laws
        _check_one(make, run, [] if trouble is None else [_TroubleMaker(trouble)])


def _check_one(make: Callable[[], Sink], run: Trial[Batch], subs: Sequence[Listening[Any]]) -> None:
    probe: _SinkProbe[Batch] = _SinkProbe(make())
    try:
        alone = record_trace(run, subs)
    except _TroubleError:
        try:
            compare_run([], run, subs, sinks=[probe])
        except _TroubleError:
            probe.check()
            return
        said = "an error of the training does not get through with it"
        raise LawBrokenError("observers", probe.name, said) from None
    found = compare_run(alone, run, subs, sinks=[probe])
    probe.check()
    if found:
        raise LawBrokenError("observers", probe.name, f"the training is another one with it: {found}")
    unwatched = _SinkProbe[Batch](make())  # no other sink wants batches: unwatched batches come in groups
    learner = run.learner(subs, [unwatched])
    end = fit_step(learner, learner.init(run.seed), run.epochs).state
    unwatched.check()
    if end != alone[-1].state:
        said = f"the training ends otherwise with it:\n{end.diff(alone[-1].state)}"
        raise LawBrokenError("observers", probe.name, said)
    del end, learner
    gc.collect()
    kept = sum(handle() is not None for handle in unwatched.handles)
    if kept > _MOST_KEPT:
        raise LawBrokenError(
            "no waste",
            probe.name,
            f"it keeps {kept} states, each of which costs a copy of the weights. Keep what you need of a transition: "
            f"its progress, its stats, a number.",
        )
