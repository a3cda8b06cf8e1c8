"""How often ranks meet: at a batch for gradients, listeners and weights that are no rows; twice at a phase's end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nntrain import DataLoaders, Engine, Learner, StepOutput, Subscriber, TrainState, accuracy, epoch_step, supervised
from nntrain.machine.shares import _ROOM, of_all_ranks
from nntrain.metrics.phase import PhaseMetrics
from nntrain.ranks.ranks import Ranks
from nntrain.update import optimizer
from nntrain.values.sums import Sums, WeightedSums
from tests.ranks.launching import launch

MEETINGS = ("all_reduce", "all_gather_into_tensor", "all_gather_object", "broadcast_object_list", "barrier")


Batch = tuple[torch.Tensor, torch.Tensor]
BATCHES = 5


class Before(Subscriber[Batch]):
    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        return state


class After(Subscriber[Batch]):
    def after_batch(self, state: TrainState, batch: Batch, output: Any) -> TrainState:
        return state


def by_token(model: nn.Module, batch: Batch) -> StepOutput[torch.Tensor]:
    """Weigh a batch by something else than its rows."""
    preds = model(batch[0])
    return StepOutput(nn.functional.cross_entropy(preds, batch[1]), preds, batch[1], (batch[1] >= 0).sum() * 3)


LISTENING: dict[str, tuple[tuple[type[Subscriber[Batch]], ...], bool, int]] = {
    "nobody": ((), False, 0),
    "before": ((Before,), False, 1),
    "after": ((After,), False, 1),
    "both": ((Before, After), False, 2),
    "two of each": ((Before, After, Before, After), False, 2),
    "by token": ((), True, 1),
    "all": ((Before, After), True, 3),
}
"""Who listens, whether a task weighs its batches, and how many collectives a batch has beside its gradients."""


def all_meetings() -> dict[str, list[dict[str, int]]]:
    plain = {name: getattr(dist, name) for name in MEETINGS}
    found = {}
    for name, (subs, weighs, _) in LISTENING.items():
        found[name] = meetings(subs, weighs=weighs)
        for one, function in plain.items():
            setattr(dist, one, function)
    return found


def meetings(subs: Sequence[type[Subscriber[Batch]]], *, weighs: bool) -> list[dict[str, int]]:
    """Return, for two epochs' phases after the first, how often each collective was called from Python."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        plain = getattr(dist, name)

        def call(*given: Any, **named: Any) -> Any:
            counted[name] += 1
            return plain(*given, **named)

        return call

    batches = [(torch.rand(6, 4), torch.randint(0, 3, (6,)))] * BATCHES
    learner = Learner.of(
        nn.Linear(4, 3),
        DataLoaders(batches, batches),
        by_token if weighs else supervised(nn.functional.cross_entropy, accuracy),
        optimizer(torch.optim.SGD, lr=0.1),
        subs=[one() for one in subs],
        engine=Engine(parallel="data"),
    )
    learner.machine.pulse._every = 10**6  # type: ignore[union-attr] # the beats of half a second are beside these
    state = learner.init()
    for _ in range(2):
        state = epoch_step(learner, state).state
    for name in MEETINGS:
        setattr(dist, name, counting(name))
    found = []
    for _ in range(4):
        state = epoch_step(learner, state).state
        found.append(dict(counted))
        counted.clear()
    return found


@pytest.mark.sweep
def test_a_batch_meets_for_its_listeners_and_its_weight_alone_and_a_phase_twice_at_its_end() -> None:
    first, second = launch(all_meetings, 2)
    assert first == second
    assert first["nobody"] == [{"all_gather_into_tensor": 1, "all_reduce": 1}] * 4
    for name, (_, weighs, of_batch) in LISTENING.items():
        weights = BATCHES * weighs
        agreements = BATCHES * of_batch - weights
        for phase in first[name]:
            assert phase == {"all_gather_into_tensor": 1 + weights, "all_reduce": 1 + agreements}, name


class Meeting:
    """Stands for the collectives of ranks that are threads."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=20)
        self.given: list[dict[int, list[float]]] = []

    def of(self, rank: int) -> Ranks:
        """Return what a rank meets the others with."""
        times = iter(range(100))

        def rows(numbers: Sequence[float]) -> list[list[float]]:
            meeting = next(times)
            if rank == 0:
                self.given.append({})
            self._barrier.wait()
            self.given[meeting][rank] = [*numbers]
            self._barrier.wait()
            return [self.given[meeting][one] for one in range(self._barrier.parties)]

        return cast(Ranks, SimpleNamespace(rows=rows))


@pytest.mark.parametrize("weighed", [True, False], ids=["a rank has weights that are no ints", "all weights are ints"])
@pytest.mark.parametrize("metrics", [0, 1, _ROOM - 2, _ROOM - 1, _ROOM, 3 * _ROOM])
def test_sums_of_any_length_are_added_up(metrics: int, weighed: bool) -> None:
    names = tuple(f"m{n}" for n in range(metrics))
    length = 1 + metrics

    def sums(first: float, samples: int, more: list[float]) -> Sums:
        totals = [*(first + n for n in range(length)), *more]
        weighted = WeightedSums(totals, names)
        return Sums(weighted=weighted, samples=samples, batches=3, seconds=float(samples))

    shares = [sums(1.0, 5, []), sums(100.0, 7, [0.5] * weighed)]
    meeting = Meeting(2)
    with ThreadPoolExecutor(2) as threads:
        found = [*threads.map(lambda n: of_all_ranks(meeting.of(n), shares[n], PhaseMetrics({})), (0, 1))]
    for one in found:
        assert one.weighted.whole() == [*(101.0 + 2 * n for n in range(length)), *[0.5] * weighed]
        assert (one.samples, one.seconds, one.batches) == (12, 7.0, 3)
    assert all(len({len(numbers) for numbers in one.values()}) == 1 for one in meeting.given)
    assert len(meeting.given) == (1 if length + weighed <= _ROOM else 2)
