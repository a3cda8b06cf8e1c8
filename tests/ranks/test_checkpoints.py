"""Law 4 over ranks: saved anywhere by N processes, a training goes on with the same bits on N, and on M with the same
totals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import Checkpoint, Completed, Engine, Learner, accuracy, fit_step, supervised
from nntrain.checkpoint import load, save
from nntrain.data import DataLoaders
from nntrain.errors import StateError
from nntrain.machine.steps import advance
from nntrain.metrics import Confusion
from nntrain.update import accumulate, chain, ema, optimizer
from tests.ranks.launching import launch

Batch = tuple[Tensor, Tensor]


def learner_of(*sinks: Any, parallel: bool = True, every: int = 1) -> Learner[Batch]:
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(5)
    data = [
        (torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator))
        for n in (8, 8, 8, 7, 6)
    ]
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=0.2), nn.Dropout(0.3), nn.Linear(8, 3))
    return Learner.of(
        model,
        DataLoaders(data, data),
        supervised(nn.functional.cross_entropy),
        chain(accumulate(every), optimizer(torch.optim.SGD, lr=0.1, momentum=0.9), ema(0.9)),
        metrics={"accuracy": accuracy, "seen": Confusion(3)},
        sinks=sinks,
        engine=Engine(parallel="data" if parallel else None),
    )


def told(state: Any) -> dict[str, Any]:
    return {
        "params": dict(state.params),
        "buffers": dict(state.buffers),
        "ema": dict(state.to_module("ema").state_dict()),
        "history": [(one.phase, one.loss, dict(one.metrics), one.samples) for one in state.history],
        "progress": state.progress,
    }


def straight(folder: str, every: int) -> dict[str, Any]:
    learner = learner_of(Checkpoint(folder, every_steps=1, keep_last=100, background=False), every=every)
    return told(learner.fit(2, print_stats=False).state)


def resumed(folder: str, every: int, parallel: bool = True) -> list[tuple[str, dict[str, Any]]]:
    learner = learner_of(parallel=parallel, every=every)
    found = []
    for path in sorted(Path(folder).glob("*.safetensors")):
        state = load(path, learner)
        if state.progress.at != "finished":
            outcome = fit_step(learner, state)
            assert isinstance(outcome, Completed)
            state = outcome.state
        found.append((path.name, told(state)))
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


@pytest.mark.sweep
@pytest.mark.parametrize("every", [1, 2])
def test_as_many_processes_go_on_with_the_same_bits_from_anywhere(tmp_path: Path, every: int) -> None:
    first, second = launch(straight, 2, str(tmp_path), every)
    assert same(first, second)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 5
    for ended in launch(resumed, 2, str(tmp_path), every, limit=90):
        assert len(ended) == len(files)
        for name, found in ended:
            assert same(found, first), name


@pytest.mark.sweep
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_another_number_of_processes_goes_on_with_the_same_totals(tmp_path: Path, size: int, every: int) -> None:
    first, _ = launch(straight, 2, str(tmp_path), every)
    ended = [resumed(str(tmp_path), every, False)] if size == 1 else launch(resumed, size, str(tmp_path), every)
    for found in ended:
        assert [name for name, _ in found] == [path.name for path in sorted(tmp_path.glob("*.safetensors"))]
        for _, one in found:
            assert one["progress"] == first["progress"]
            assert [stats[3] for stats in one["history"]] == [stats[3] for stats in first["history"]]


def one_batch_saved(path: str) -> str:
    learner = learner_of()
    state = learner.init(epochs=1)
    while state.progress.batch < 2:
        state = advance(learner, state).state
    try:
        save(state, path)
    except StateError as error:
        return str(error)
    return ""


@pytest.mark.sweep
def test_a_share_alone_is_not_saved(tmp_path: Path) -> None:
    for said in launch(one_batch_saved, 2, str(tmp_path / "one.safetensors")):
        assert "2 processes share" in said
