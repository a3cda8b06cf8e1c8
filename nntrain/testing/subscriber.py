"""`check_subscriber`: the laws, for a subscriber that somebody wrote."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch

from nntrain.checkpoint import load, save
from nntrain.errors import CheckpointError, SubscriberError, VerdictError
from nntrain.machine.steps import advance, fit_step, with_goal
from nntrain.sinks.transition import Transition
from nntrain.subscribers.protocol import Listening
from nntrain.testing.broken import LawBrokenError
from nntrain.testing.courses import Follower, Stop, course, parted
from nntrain.testing.plans import Batch, MakeLearner, Pair, Trial, runs_of, runs_of_pairs
from nntrain.testing.probe import Probe
from nntrain.testing.standing_in import StandIn
from nntrain.testing.trying import expect_callable, st, tried


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
    """Hold a subscriber to the laws, over `examples` generated runs of a small classifier.

    `make` gives a new subscriber each time, all alike. One for other batches than (inputs, target) needs `learner`: a
    function that makes a new learner of yours with the subscribers that it is given; a batch of it should take
    milliseconds.

    Raises `LawBrokenError`, with the smallest run that shows it: an answer that the event does not allow
    ("answers"), a write to a state, batch or output ("immutability"), other answers to the same question, a clock, a
    random number that no key rules ("determinism"), a memory outside the state ("resume", "branch"), a process that is
    not as it was ("manners"), files, threads, prints ("effects"). What the subscriber raises itself passes on.
    """
    example = "check_subscriber(lambda: EarlyStopping(patience=2))"
    expect_callable(make, "make", f"what makes a new subscriber each time: a class, or a lambda: {example}")
    runs: st.SearchStrategy[Trial[Any]] = runs_of_pairs(device) if learner is None else runs_of(learner)
    with tempfile.TemporaryDirectory() as folder:
        tried(partial(_check, make, Path(folder) / "state.safetensors"), runs, examples)


def _check(make: Callable[[], Listening[Batch]], path: Path, run: Trial[Batch]) -> None:
    probe = Probe(make())
    name = probe.name
    try:
        straight = course(run, [probe])
    except (SubscriberError, VerdictError) as error:
        raise LawBrokenError("answers", name, str(error)) from error
    _check_resumed(make, run, path, straight, probe)
    found = parted(straight, run, [make()])
    if found:
        raise LawBrokenError("determinism", name, f"a second run is another one: {found}")
    _check_branches(make, run, straight, probe)
    parted(straight, run, [Probe(make(), twice=True)])
    kept = probe.lasting()
    if kept:
        raise LawBrokenError("resume", name, f"its memory is not in the state: {kept}")


def _check_resumed(
    make: Callable[[], Listening[Batch]], run: Trial[Batch], path: Path, straight: list[Stop], probe: Probe
) -> None:
    """Save each state, load it, go on with another subscriber: the rest of the run is the same."""
    place = StandIn(probe.inner)
    follower = Follower(())
    learner = run.learner([place], [lambda transition: follower(transition)])  # noqa: PLW0108 - another one each time
    for index, stop in enumerate(straight):
        if stop.state.progress.at == "finished":
            continue
        try:
            save(stop.state, path)
        except CheckpointError as error:
            raise LawBrokenError("resume", probe.name, f"what it keeps cannot be saved: {error}") from error
        place.inner = make()
        follower = Follower(straight[index + 1 :])
        fit_step(learner, load(path, learner))
        found = follower.ended()
        if found:
            memory = probe.changed()
            why = f"its memory is not in the state: resumed runs differ. {memory}" if memory else "resumed runs differ"
            said = f"{why}\n  Gone on from the state after {stop}: {found} (straight here, resumed there)."
            raise LawBrokenError("resume", probe.name, said)


def _check_branches(
    make: Callable[[], Listening[Batch]], run: Trial[Batch], straight: list[Stop], probe: Probe
) -> None:
    """Advance two trainings with one subscriber, in turns: each is as it is alone."""
    follower = Follower(straight)
    mine = True

    def follow(transition: Transition) -> None:
        if mine:
            follower(transition)

    learner = run.learner([make()], [follow])
    one, other = (with_goal(learner.init(seed), run.epochs) for seed in (run.seed, run.seed + 1))
    while one.progress.at != "finished":
        mine = True
        one = advance(learner, one).state
        if other.progress.at != "finished":
            mine = False
            other = advance(learner, other).state
    found = follower.ended()
    if found:
        memory = probe.changed() or ""
        raise LawBrokenError(
            "branch",
            probe.name,
            f"depends on the order of the steps of two trainings that take turns. {memory}\n  {found} (alone here, in "
            f"turns there).",
        )
