"""`check_subscriber`: the laws for a subscriber."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch

from nntrain.checkpoint import load, save
from nntrain.errors import CheckpointError, SubscriberError, VerdictError
from nntrain.machine.steps import fit_step
from nntrain.subscribers.protocol import Listening
from nntrain.testing.examples import check_examples, expect_callable
from nntrain.testing.laws import LawBrokenError
from nntrain.testing.plans import Batch, MakeLearner, Pair, Trial, runs_of
from nntrain.testing.probe import StandIn, SubscriberProbe, memory_changes
from nntrain.testing.traces import TraceChecker, TraceStep, compare_run, compare_turns, record_trace


@overload
def check_subscriber(
    make: Callable[[], Listening[Pair]], *, examples: int = ..., device: torch.device | str = ...
) -> None: ...
@overload
def check_subscriber(
    make: Callable[[], Listening[Batch]], *, learner: MakeLearner[Batch], examples: int = ...
) -> None: ...
def check_subscriber(
    make: Callable[[], Listening[Any]],
    *,
    learner: MakeLearner[Any] | None = None,
    examples: int = 15,
    device: torch.device | str = "cpu",
) -> None:
    """Check a subscriber by the laws, over `examples` generated runs of a small classifier.

    `make` returns a new subscriber each time, all alike. One for other batches than (inputs, target) needs `learner`: a
    function that makes a new learner of yours with the given subscribers; its batches should take milliseconds.

    Raises `LawBrokenError`, with the smallest run that shows it: an answer that the event does not allow ("answers"),
    a write to a state, batch or output ("immutability"), another answer to the same question, a clock, a random number
    that does not depend on the key ("determinism"), a memory outside the state ("resume", "branch"), a change of the
    process's global state ("manners"), files, threads, prints ("effects"). Its own exceptions pass through.
    """
    example = "check_subscriber(lambda: EarlyStopping(patience=2))"
    expect_callable(make, "make", f"what makes a new subscriber each time: a class, or a lambda: {example}")
    runs = runs_of(learner, device)
    with tempfile.TemporaryDirectory() as folder:
        check_examples(partial(_check, make, Path(folder) / "state.safetensors"), runs, examples)


def _check(make: Callable[[], Listening[Batch]], path: Path, run: Trial[Batch]) -> None:
    probe = SubscriberProbe(make())
    name = probe.name
    try:
        straight = record_trace(run, [probe])
    except (SubscriberError, VerdictError) as error:
        raise LawBrokenError("answers", name, str(error)) from error
    _check_resumed(make, run, path, straight, probe)
    found = compare_run(straight, run, [make()])
    if found:
        raise LawBrokenError("determinism", name, f"a second run is another one: {found}")
    _check_branches(make, run, straight, probe)
    compare_run(straight, run, [SubscriberProbe(make(), twice=True)])
    kept = memory_changes(probe, more_than=1)  # a cache changes once
    if kept:
        raise LawBrokenError("resume", name, f"its memory is not in the state: {kept}")


def _check_resumed(
    make: Callable[[], Listening[Batch]],
    run: Trial[Batch],
    path: Path,
    straight: list[TraceStep],
    probe: SubscriberProbe,
) -> None:
    """Check that a run is the same when each state is saved, loaded, and continued with a new subscriber."""
    place = StandIn(probe.inner)
    follower = TraceChecker(())
    learner = run.learner([place], [lambda transition: follower(transition)])  # noqa: PLW0108 - another one each time
    for index, stop in enumerate(straight):
        if stop.state.progress.at == "finished":
            continue
        try:
            save(stop.state, path)
        except CheckpointError as error:
            raise LawBrokenError("resume", probe.name, f"what it keeps cannot be saved: {error}") from error
        place.inner = make()
        follower = TraceChecker(straight[index + 1 :])
        fit_step(learner, load(path, learner))
        found = follower.finish()
        if found:
            memory = memory_changes(probe)
            why = f"its memory is not in the state: resumed runs differ. {memory}" if memory else "resumed runs differ"
            said = f"{why}\n  Gone on from the state after {stop}: {found} (straight here, resumed there)."
            raise LawBrokenError("resume", probe.name, said)


def _check_branches(
    make: Callable[[], Listening[Batch]], run: Trial[Batch], straight: list[TraceStep], probe: SubscriberProbe
) -> None:
    """Check that two trainings that share a subscriber, and advance in turns, are as each is alone."""
    found = compare_turns(straight, run, [make()])
    if found:
        memory = memory_changes(probe) or ""
        raise LawBrokenError(
            "branch",
            probe.name,
            f"depends on the order of the steps of two trainings that take turns. {memory}\n  {found} (alone here, in "
            f"turns there).",
        )
