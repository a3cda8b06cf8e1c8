"""`clashes`: finds subscribers whose order changes the training, by running both orders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any, overload

import torch

from nntrain.errors import ConfigError, OrderWarning
from nntrain.subscribers.asking import hears, subscriber_name
from nntrain.subscribers.protocol import EVENTS, Listening
from nntrain.testing.examples import check_examples, expect_callable
from nntrain.testing.laws import LawBrokenError
from nntrain.testing.plans import Batch, MakeLearner, Pair, Trial, runs_of
from nntrain.testing.probe import StandIn
from nntrain.testing.traces import compare_run, record_trace
from nntrain.values.record import Record
from nntrain.values.verdicts import Event


class Clash(Record, frozen=True):
    """Two subscribers that do not commute. `said` describes a run in which their order matters."""

    first: str
    second: str
    said: str


@overload
def clashes(
    makes: Sequence[Callable[[], Listening[Pair]]], *, examples: int = ..., device: torch.device | str = ...
) -> tuple[Clash, ...]: ...
@overload
def clashes(
    makes: Sequence[Callable[[], Listening[Batch]]], *, learner: MakeLearner[Batch], examples: int = ...
) -> tuple[Clash, ...]: ...
def clashes(
    makes: Sequence[Callable[[], Listening[Any]]],
    *,
    learner: MakeLearner[Any] | None = None,
    examples: int = 60,
    device: torch.device | str = "cpu",
) -> tuple[Clash, ...]:
    """Return the pairs of subscribers that do not commute: asked in the other order, they change the training.

    Each of `makes` returns a new subscriber. Two without a common event commute. The others are run in both orders,
    whatever their `order`, over `examples` generated runs. Set different orders for those that clash.
    """
    if not isinstance(makes, Sequence):
        raise ConfigError(f"makes is {makes!r:.80}; expected a list: clashes([NanGuard, lambda: Rollback(every=2)]).")
    for make in makes:
        expect_callable(make, "One of makes", "what makes a new subscriber each time: a class, or a lambda")
    runs = runs_of(learner, device)
    found: list[Clash] = []
    for one, other in combinations(makes, 2):
        if not _events(one()) & _events(other()):
            continue
        try:
            check_examples(partial(_check, one, other), runs, examples)
        except LawBrokenError as error:
            said = f"{error.said}\n  The smallest run that shows it: {error.run}"
            found.append(Clash(first=subscriber_name(one()), second=subscriber_name(other()), said=said))
    return tuple(found)


def _events(subscriber: object) -> set[Event]:
    return {event for event in EVENTS if hears(subscriber, event)}


def _check(one: Callable[[], Listening[Batch]], other: Callable[[], Listening[Batch]], run: Trial[Batch]) -> None:
    there = [StandIn(one()), StandIn(other())]
    back = [StandIn(other()), StandIn(one())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OrderWarning)  # about what is tested here
        found = compare_run(record_trace(run, there), run, back, by=False)
    if found:
        names = f"{subscriber_name(one())} and {subscriber_name(other())}"
        said = f"{found} (asked in this order here, the other way round there)"
        raise LawBrokenError("order", names, said)
