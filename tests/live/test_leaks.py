"""What is let go is gone: at once, and over many steps and fits."""

from __future__ import annotations

import functools
import gc
import os
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, Transition, accuracy, fit_step

Batch = tuple[Tensor, Tensor]
DATA = [(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))] * 4


def learner_of(batches: list[Batch] = DATA, **changes: Any) -> Learner[Batch]:
    options: dict[str, Any] = {
        "model": nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)),
        "dls": DataLoaders(batches, DATA[:1]),
        "loss_fn": cross_entropy,
        "metric_fn": accuracy,
        "optim_class": functools.partial(torch.optim.SGD, momentum=0.9),
        "lr": 0.01,
        **changes,
    }
    return Learner(**options)


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(one), Tensor) for one in gc.get_objects())


def resident() -> int:
    """Give the bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("sinks", [0, 1])
def test_a_learners_memory_is_free_when_it_is_let_go(
    tapes: None, without_collector: None, capture: bool, sinks: int
) -> None:
    seen: list[str] = []

    def sink(transition: Transition) -> None:
        seen.append(transition.at)

    learner = learner_of(capture=capture, sinks=[sink] * sinks)
    state = learner.fit(3, print_stats=False).state
    workspace = weakref.ref(learner.machine.workspace)
    weight = weakref.ref(learner.machine.workspace.params["0.weight"])
    del learner
    assert workspace() is not None  # the state reads its tensors
    del state
    assert workspace() is None
    assert weight() is None


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.sweep
def test_memory_is_flat_over_ten_thousand_steps() -> None:
    learner = learner_of(DATA * 250)
    state = fit_step(learner, learner.init(), 1).state
    tensors, before = live_tensors(), resident()
    for _ in range(10):
        state = fit_step(learner, state, 1).state
    assert state.progress.step >= 10_000
    assert live_tensors() == tensors
    assert resident() - before < 8 << 20


@pytest.mark.sweep
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("anew", [False, True], ids=["one learner", "a learner a fit"])
def test_memory_is_flat_over_two_hundred_fits(anew: bool) -> None:
    learner = learner_of()
    for _ in range(20):
        learner.fit(1, print_stats=False)
    tensors, before = live_tensors(), resident()
    for _ in range(200):
        (learner_of() if anew else learner).fit(1, print_stats=False)
    assert live_tensors() == tensors
    assert resident() - before < 8 << 20
