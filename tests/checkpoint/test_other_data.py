"""Going on amid an epoch with other data, or another batch size, is told: in Python, and in the log."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nntrain import Checkpoint, DataLoaders, Learner, TrainState, advance, fit_step
from nntrain.checkpoint import load, save
from nntrain.errors import DataWarning
from nntrain.log import JsonLog, WarningEvent, read


def rows(count: int) -> tuple[Tensor, Tensor]:
    return torch.arange(float(count))[:, None] / count, torch.zeros(count, 1)


class Rows(IterableDataset[tuple[Tensor, Tensor]]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*rows(self.count), strict=True)


LOADERS: dict[str, Callable[[int, int], Any]] = {
    "list": lambda count, size: list(zip(*(torch.split(one, size) for one in rows(count)), strict=True)),
    "shuffled": lambda count, size: DataLoader(TensorDataset(*rows(count)), batch_size=size, shuffle=True),
    "short batches dropped": lambda count, size: DataLoader(TensorDataset(*rows(count)), size, drop_last=True),
    "iterable": lambda count, size: DataLoader(Rows(count), batch_size=size),
}


def learner_of(kind: str, count: int, size: int, **more: Any) -> Learner[Any]:
    torch.manual_seed(0)
    dls = DataLoaders(LOADERS[kind](count, size), LOADERS[kind](count, size))
    return Learner(nn.Linear(1, 1), dls, mse_loss, mse_loss, torch.optim.SGD, 0.1, **more)


def after(learner: Learner[Any], phase: str, batches: int) -> TrainState:
    state = learner.init(epochs=2)
    while (state.progress.phase, state.progress.batch) != (phase, batches):
        state = advance(learner, state).state
    return state


@pytest.mark.parametrize("phase", ["train", "eval"])
@pytest.mark.parametrize("kind", LOADERS)
def test_another_batch_size_is_told_where_a_state_goes_on(kind: str, phase: str, tmp_path: Path) -> None:
    state = after(learner_of(kind, 24, 5), phase, 2)
    with JsonLog(tmp_path / "log.jsonl") as log:
        other = learner_of(kind, 24, 6, sinks=[log])
        with pytest.warns(DataWarning, match="10 samples in 2 batches behind it.*that many batches have 12") as told:
            fit_step(other, state)
    assert len(told) == 1
    events = [line.event for line in read(tmp_path / "log.jsonl")]
    assert [one.code for one in events if isinstance(one, WarningEvent)] == ["data.changed"]


@settings(max_examples=15)
@given(kind=st.sampled_from(sorted(LOADERS)), count=st.integers(5, 30), size=st.integers(1, 9), data=st.data())
def test_the_same_data_are_never_warned_of(kind: str, count: int, size: int, data: st.DataObject) -> None:
    size = min(size, count)
    learner = learner_of(kind, count, size)
    last = count // size if kind == "short batches dropped" else -(-count // size)
    state = after(learner, data.draw(st.sampled_from(["train", "eval"])), data.draw(st.integers(1, last)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = fit_step(learner_of(kind, count, size), state).state
        assert fit_step(learner, state).state == outcome
        learner_of(kind, count, size, weigh=lambda batch: 3).fit(1, print_stats=False)


@pytest.mark.parametrize("phase", ["train", "eval"])
@pytest.mark.parametrize(("count", "size"), [(100, 30), (128, 32), (97, 32)])
def test_other_data_are_told_when_a_checkpoint_is_loaded(count: int, size: int, phase: str, tmp_path: Path) -> None:
    sink = Checkpoint(tmp_path, every_steps=None)
    learner = learner_of("shuffled", 100, 32, sinks=[sink])
    state = after(learner, phase, 2)
    with pytest.raises(ZeroDivisionError):
        fit_step(learner.replace(loss_fn=lambda p, t: 1 / 0), state)  # type: ignore[arg-type, return-value] # it fails
    assert sink.newest is not None
    other = learner_of("shuffled", count, size)
    with pytest.warns(DataWarning, match=f"amid an epoch of other data: {'train' if phase == 'train' else 'valid'}_"):
        loaded = load(sink.newest, other)
    changed = [event.text for event in loaded.loaded if isinstance(event, WarningEvent)]
    assert len(changed) == 1
    assert ("_samples was 100, and is" in changed[0], "_batch_size was 32, and is" in changed[0]) == (
        count != 100,
        size != 32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(sink.newest, learner)


def test_a_state_saved_without_its_run_still_knows_its_samples(tmp_path: Path) -> None:
    save(after(learner_of("shuffled", 100, 32), "train", 2), tmp_path / "it")
    other = learner_of("shuffled", 100, 30)
    with pytest.warns(DataWarning, match="64 samples in 2 batches"):
        fit_step(other, load(tmp_path / "it", other))
