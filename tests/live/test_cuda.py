"""What only a CUDA device can show of memory, transfers and determinism: the first tests to run where one is lent.

Their logic is tested without one in `test_out_of_memory`, `test_ahead` and `test_determinism`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    DataLoaders,
    Engine,
    Key,
    Learner,
    StepOutput,
    TrainState,
    Transition,
    accuracy,
    advance,
    fit_step,
    state_before,
    supervised,
)
from nntrain.errors import ConfigError
from nntrain.live.ahead import sender_for
from nntrain.machine import machine
from nntrain.update import accumulate, chain, clip_norm, optimizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

FIXED = os.environ.get("CUBLAS_WORKSPACE_CONFIG") in {":4096:8", ":16:8"}


class Noisy:
    """A loader of batches on the CPU, drawn anew each time, pageable or pinned."""

    def __init__(self, batches: int = 6, rows: int = 512, *, pinned: bool = False) -> None:
        self.count, self.rows, self.pinned = batches, rows, pinned

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(start, self.count):
            x, y = torch.randn(self.rows, 256), torch.randint(0, 4, (self.rows,))
            yield (x.pin_memory(), y.pin_memory()) if self.pinned else (x, y)


class OnePinned(Noisy):
    """A loader that gives the same pinned memory for each batch, written anew."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        x = torch.empty(self.rows, 256).pin_memory()
        for _ in range(start, self.count):
            x.copy_(torch.randn(self.rows, 256))
            yield x, torch.randint(0, 4, (self.rows,))


class Mixed(Noisy):
    """A loader with one tensor on the device, written anew for each batch, beside one on the CPU."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        there = torch.empty(self.rows, 256, device="cuda")
        for x, y in super().batches(key, epoch, start):
            there.copy_(x)
            yield there, y


class Sparse(Noisy):
    """A loader of sparse tensors, of which the allocator cannot be told which stream uses them."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in super().batches(key, epoch, start):
            yield x.relu().to_sparse(), y


class Views(Noisy):
    """A loader of tensors that are transposed, or of which all columns are the same memory."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for index, (x, y) in enumerate(super().batches(key, epoch, start), start):
            yield x[:, :1].expand(self.rows, 256) if index % 2 else x.t().contiguous().t(), y


class Dense(nn.Module):
    """Returns what it is given; a sparse tensor as a dense one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to_dense()


def learner_of(loader: Any, engine: Engine | None = None, update: Any = None, **more: Any) -> Learner[Any]:
    torch.manual_seed(0)
    return Learner.of(
        nn.Sequential(Dense(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 4)),
        DataLoaders(loader, loader),
        supervised(cross_entropy, accuracy),
        update or optimizer(torch.optim.AdamW, lr=1e-3),
        engine=engine or Engine(device="cuda"),
        **more,
    )


def not_ahead(learner: Learner[Any], epochs: int) -> TrainState:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "sender_for", lambda device: None)
        return learner.replace().fit(epochs, print_stats=False).state


# -- transfers ------------------------------------------------------------------------------------------------------


LOADERS = {"pageable": Noisy(), "pinned": Noisy(pinned=True), "mixed": Mixed(), "sparse": Sparse(), "views": Views()}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_batches_sent_ahead_are_those_of_the_loader(loader: Noisy) -> None:
    assert sender_for(torch.device("cuda", 0)) is not None
    learner = learner_of(loader)
    end = learner.fit(2, print_stats=False).state
    assert end == not_ahead(learner, 2)
    states = [learner.init(epochs=2)]
    while states[-1].progress.at != "finished":
        states.append(advance(learner, states[-1]).state)
    for state in (states[5], states[3], states[11]):
        assert fit_step(learner, state).state == end


def test_pinned_memory_that_a_loader_uses_again_is_not_read_too_late() -> None:
    learner = learner_of(OnePinned(12, 4096))
    assert learner.fit(1, print_stats=False).state == learner_of(Noisy(12, 4096)).fit(1, print_stats=False).state


def test_memory_of_a_batch_is_not_used_again_before_the_work_has_read_it() -> None:
    """The work is made slow, so that what is sent next would overwrite what is still to be read."""

    def slow(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call] # torch leaves it untyped; about 10 ms
        preds = model(batch[0])
        return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1])

    loader = Noisy(12, 4096)
    learner = Learner.of(
        nn.Linear(256, 4),
        DataLoaders(loader, None),
        slow,
        optimizer(torch.optim.SGD, lr=0.1),
        engine=Engine(device="cuda"),
    )
    assert learner.fit(1, print_stats=False).state == not_ahead(learner, 1)


def test_a_recorded_step_takes_batches_sent_ahead() -> None:
    learner = learner_of(Noisy(), Engine(device="cuda", capture=True))
    assert learner.fit(2, print_stats=False).state == not_ahead(learner, 2)


# -- out of memory ----------------------------------------------------------------------------------------------------


class Hungry(nn.Module):
    """Takes a gigabyte for each row, in training with a gradient."""

    def __init__(self, share: int) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        wide = x[:, :1].expand(len(x), self.share) * self.layer.weight[0, 0]
        found: Tensor = self.layer(x) + 0 * wide.mean(1, keepdim=True)
        return found


def hungry(oom: Any, rows: int = 8) -> Learner[Any]:
    """Return a learner with room for less than half a batch."""
    free, _ = torch.cuda.mem_get_info()
    share = int(free / 4 / rows * 1.1)  # float32: one copy of all rows is more than there is
    source = torch.Generator().manual_seed(0)
    data = [(torch.randn(rows, 8, generator=source), torch.randint(0, 4, (rows,), generator=source)) for _ in range(3)]
    torch.manual_seed(0)
    return Learner.of(
        Hungry(share),
        DataLoaders(data, None),
        supervised(cross_entropy),
        chain(clip_norm(1.0), optimizer(torch.optim.SGD, lr=0.1)),
        engine=Engine(device="cuda", oom=oom),
        sinks=[],
    )


def test_out_of_memory_says_what_was_there_and_the_state_before_goes_on() -> None:
    torch.cuda.empty_cache()
    learner = hungry("raise")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        learner.fit(1, print_stats=False)
    (note,) = [note for note in caught.value.__notes__ if "in memory were" in note]
    assert "torch has allocated" in note
    before = state_before(caught.value)
    assert before is not None
    assert before.tensors == learner.replace().init().tensors


def test_a_batch_in_parts_fits_and_its_failure_leaves_no_memory_behind() -> None:
    torch.cuda.empty_cache()
    notes: list[str] = []

    def tells(transition: Transition) -> None:
        notes.extend(note.text for note in transition.notes if note.code == "memory.halved")

    learner = hungry("halve").replace(sinks=[tells])
    before = torch.cuda.memory_allocated()
    state = learner.fit(1, print_stats=False).state
    assert state.progress.step == 3
    assert notes
    assert torch.cuda.memory_allocated() - before < 50_000_000


# -- determinism ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(FIXED, reason="CUBLAS_WORKSPACE_CONFIG is set")
def test_cublas_s_variable_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="CUBLAS_WORKSPACE_CONFIG"):
        learner_of(Noisy(), Engine(device="cuda", deterministic=True)).init()


def test_deterministic_runs_have_the_same_bits() -> None:
    """In a process of its own, since cuBLAS reads its variable once."""
    script = """
import torch
from torch import nn
from nntrain import DataLoaders, Engine, Learner
torch.manual_seed(0)
data = [(torch.randn(64, 3, 16, 16), torch.randint(0, 4, (64,))) for _ in range(4)]
model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 14 * 14, 4))
learner = Learner(model, DataLoaders(data, None), nn.functional.cross_entropy, {}, torch.optim.SGD, 0.1,
                  engine=Engine(device="cuda", deterministic=True))
assert learner.fit(2, print_stats=False).state == learner.replace().fit(2, print_stats=False).state
print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert "equal" in done.stdout, done.stderr


# -- recordings -------------------------------------------------------------------------------------------------------


def test_accumulation_and_rules_around_a_recorded_pass_have_the_bits_of_the_plain_one() -> None:
    rule = chain(accumulate(2), clip_norm(1.0), optimizer(torch.optim.AdamW, lr=1e-3))
    learner = learner_of(Noisy(), update=rule)
    captured = learner.replace(engine=Engine(device="cuda", capture=True))
    assert captured.fit(2, print_stats=False).state == learner.fit(2, print_stats=False).state


def test_several_shapes_are_recorded_each() -> None:
    source = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(rows, 256, generator=source), torch.randint(0, 4, (rows,), generator=source))
        for rows in (64, 32, 64, 16, 32, 64, 16)
    ]
    learner = learner_of(data)
    captured = learner.replace(engine=Engine(device="cuda", capture=True))
    assert captured.fit(3, print_stats=False).state == learner.fit(3, print_stats=False).state
