"""Loaders of others: any batch of an epoch is reached alike, by index where the loader allows that."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from nntrain import DataLoaders, Key, Learner, accuracy
from nntrain.bits import same_bits
from nntrain.foreign import Indexed, Replayed, foreign
from nntrain.log import JsonLog

Batch = tuple[Tensor, Tensor]
KEY = Key(seed=3)


class Noisy(Dataset[Batch]):
    """Samples with noise; remembers which were asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        self.asked.append(index)
        return torch.rand(3), torch.tensor(index)


class AtOnce(Noisy):
    """Gives a whole batch's samples at once."""

    def __getitems__(self, indices: list[int]) -> list[Batch]:
        return [self[index] for index in indices]


class Stacked(Noisy):
    """Makes whole batches itself."""

    def __getitem__(self, index: Any) -> Any:
        self.asked.append(index)
        return torch.rand(2, 3), torch.tensor([index, index])


class Rows(IterableDataset[Batch]):
    """Samples that come one after the other."""

    def __iter__(self) -> Iterator[Batch]:
        return ((torch.rand(3), torch.tensor(index)) for index in range(10))


def in_pairs(data: Noisy) -> list[list[int]]:
    return [[index, index + 1] for index in range(0, data.count - 1, 2)]


LOADERS: dict[str, Callable[[int], DataLoader[Any]]] = {
    "in order": lambda n: DataLoader(Noisy(n), batch_size=3),
    "shuffled": lambda n: DataLoader(Noisy(n), batch_size=3, shuffle=True),
    "drops the last": lambda n: DataLoader(Noisy(n), batch_size=3, shuffle=True, drop_last=True),
    "own generator": lambda n: DataLoader(
        Noisy(n), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "with replacement": lambda n: DataLoader(
        Noisy(n), batch_size=3, sampler=RandomSampler(range(n), replacement=True, num_samples=40)
    ),
    "some samples": lambda n: DataLoader(Noisy(n), batch_size=3, sampler=RandomSampler(range(n), num_samples=7)),
    "weighted": lambda n: DataLoader(Noisy(n), batch_size=3, sampler=WeightedRandomSampler([1.0] * n, 9)),
    "a random subset": lambda n: DataLoader(Noisy(n), batch_size=3, sampler=SubsetRandomSampler(range(0, n, 2))),
    "own batch sampler": lambda n: DataLoader(Noisy(n), batch_sampler=in_pairs(Noisy(n))),
    "torch's batch sampler": lambda n: DataLoader(
        Noisy(n), batch_sampler=BatchSampler(SequentialSampler(range(n)), 3, drop_last=False)
    ),
    "samples at once": lambda n: DataLoader(AtOnce(n), batch_size=3, shuffle=True),
    "whole batches": lambda n: DataLoader(Stacked(n), batch_size=None, shuffle=True),
    "a subset": lambda n: DataLoader(Subset(Noisy(2 * n), range(n)), batch_size=3, shuffle=True),
    "iterable": lambda n: DataLoader(Rows(), batch_size=3),
}


@pytest.mark.parametrize("name", LOADERS)
@settings(max_examples=12)
@given(count=st.integers(4, 20), epoch=st.integers(0, 2), start=st.integers(0, 9))
def test_any_start_gives_the_batches_of_the_whole_epoch(name: str, count: int, epoch: int, start: int) -> None:
    whole = list(foreign(LOADERS[name](count)).batches(KEY, epoch, 0))
    from_start = list(foreign(LOADERS[name](count)).batches(KEY, epoch, start))
    assert same_bits(from_start, whole[start:])


@pytest.mark.parametrize("name", ["in order", "shuffled", "weighted", "own batch sampler", "whole batches"])
def test_nothing_before_the_start_is_made(name: str) -> None:
    loader = LOADERS[name](12)
    batches = foreign(loader).batches(KEY, 0, 2)
    next(batches)
    assert isinstance(loader.dataset, Noisy)
    assert len(loader.dataset.asked) <= 3


def test_a_million_samples_are_not_counted_through_to_reach_the_last_batch() -> None:
    data = Noisy(1_000_000)
    (batch,) = foreign(DataLoader(data, batch_size=64, shuffle=True)).batches(KEY, 0, 15_624)
    assert len(batch[1]) == len(data.asked) == 64


def test_workers_change_no_bit() -> None:
    alone, two = (
        list(foreign(DataLoader(Noisy(20), batch_size=3, shuffle=True, num_workers=workers)).batches(KEY, 1, 2))
        for workers in (0, 2)
    )
    assert same_bits(alone, two)


class Elsewhere(Noisy):
    """Noise from Python's and NumPy's generators."""

    def __getitem__(self, index: int) -> Any:
        import random

        import numpy as np

        return torch.tensor([random.random(), np.random.rand()]), torch.tensor(index)


def test_in_workers_the_noise_of_python_and_numpy_is_of_the_batch_too() -> None:
    def batches(start: int) -> list[Any]:
        return list(foreign(DataLoader(Elsewhere(20), batch_size=3, num_workers=2)).batches(KEY, 0, start))

    assert same_bits(batches(3), batches(0)[3:])


def test_epochs_are_shuffled_anew_and_the_same_epoch_alike() -> None:
    def order(epoch: int, seed: int) -> list[int]:
        made = foreign(DataLoader(Noisy(50), batch_size=3, shuffle=True)).batches(Key(seed=seed), epoch, 0)
        return [int(index) for _, indices in made for index in indices]

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


def test_the_loader_s_own_options_are_kept() -> None:
    loader = DataLoader(Noisy(8), batch_size=4, collate_fn=len)
    assert list(foreign(loader).batches(KEY, 0, 0)) == [4, 4]


def _refuse(worker: int) -> None:
    raise OSError(f"worker {worker} was begun")


def test_workers_are_begun_by_the_owner_s_function() -> None:
    loader = DataLoader(Noisy(8), batch_size=4, num_workers=1, worker_init_fn=_refuse)
    with pytest.raises(OSError, match="worker 0 was begun"):
        list(foreign(loader).batches(KEY, 0, 0))


def _open(worker: int) -> None:
    info = torch.utils.data.get_worker_info()
    dataset: Any = info.dataset if info is not None else None
    dataset.opened = 100


class Opened(Noisy):
    """Is opened in each worker."""

    opened = 0

    def __getitem__(self, index: int) -> Batch:
        return torch.rand(3), torch.tensor(index + self.opened)


def test_a_worker_s_function_finds_the_owner_s_dataset() -> None:
    loader = DataLoader(Opened(4), batch_size=4, num_workers=1, worker_init_fn=_open)
    ((_, indices),) = foreign(loader).batches(KEY, 0, 0)
    assert indices.tolist() == [100, 101, 102, 103]


def test_a_loader_with_an_iterator_of_its_own_is_replayed() -> None:
    class Doubled(DataLoader[Batch]):
        def _get_iterator(self) -> Any:
            return ((inputs * 0 + 2, target) for inputs, target in super()._get_iterator())

    ((inputs, _),) = foreign(Doubled(Noisy(4), batch_size=4)).batches(KEY, 0, 0)
    assert inputs.eq(2).all()


def test_a_loader_that_iterates_its_own_way_is_replayed() -> None:
    class Twice(DataLoader[Batch]):
        def __iter__(self) -> Any:
            for batch in super().__iter__():
                yield batch
                yield batch

    assert isinstance(foreign(Twice(Noisy(4), batch_size=2)), Replayed)
    assert len(list(foreign(Twice(Noisy(4), batch_size=2)).batches(KEY, 0, 1))) == 3


def test_torchdata_s_loader_is_read_by_index_where_its_data_allow() -> None:
    try:
        stateful = importlib.import_module("torchdata.stateful_dataloader").StatefulDataLoader
    except ImportError:
        pytest.skip("torchdata is not installed")
    made = foreign(stateful(Noisy(12), batch_size=3, shuffle=True))
    assert isinstance(made, Indexed)
    assert same_bits(list(made.batches(KEY, 0, 2)), list(made.batches(KEY, 0, 0))[2:])
    assert isinstance(foreign(stateful(Rows(), batch_size=3)), Replayed)


def test_the_log_says_how_a_start_is_reached(tmp_path: Path) -> None:
    data = TensorDataset(torch.rand(6, 3), torch.zeros(6, dtype=torch.long))
    dls: DataLoaders[Any] = DataLoaders(DataLoader(data, batch_size=2), Once(data))
    learner = Learner(nn.Linear(3, 2), dls, nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.1)
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner.replace(sinks=[log]).fit(1, print_stats=False)
    config = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["config"]
    assert config["data"] == {
        "train": {"kind": "DataLoader", "start": "by index", "workers": 0},
        "eval": {"kind": "Once", "start": "by replay"},
    }


class Once:
    """Something of one's own that can be iterated again."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        return iter([(inputs[None], target[None]) for inputs, target in (self.data[row] for row in range(2))])
