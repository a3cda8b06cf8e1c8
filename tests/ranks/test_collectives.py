"""How often ranks meet: nothing but the gradients at a batch, and twice at a phase's end."""

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

from nntrain import DataLoaders, Engine, Learner, accuracy, epoch_step
from nntrain.machine.shares import _ROOM, of_all_ranks
from nntrain.metrics.phase import PhaseMetrics
from nntrain.ranks.ranks import Ranks
from nntrain.values.sums import Sums, WeightedSums
from tests.ranks.launching import launch

MEETINGS = ("all_reduce", "all_gather_into_tensor", "all_gather_object", "broadcast_object_list", "barrier")


def meetings() -> list[dict[str, int]]:
    """Return, for two epochs' phases after the first, how often each collective was called from Python."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        plain = getattr(dist, name)

        def call(*given: Any, **named: Any) -> Any:
            counted[name] += 1
            return plain(*given, **named)

        return call

    batches = [(torch.rand(6, 4), torch.randint(0, 3, (6,)))] * 5
    learner = Learner(
        nn.Linear(4, 3),
        DataLoaders(batches, batches),
        nn.functional.cross_entropy,
        accuracy,
        torch.optim.SGD,
        0.1,
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
def test_a_phase_meets_twice_at_its_end_whatever_its_batches() -> None:
    once = {"all_gather_into_tensor": 1, "all_reduce": 1}
    assert launch(meetings, 2) == [[once] * 4] * 2


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
