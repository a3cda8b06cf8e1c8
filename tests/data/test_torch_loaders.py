"""Loaders of others: any batch of an epoch is reached alike, by index where the loader allows that."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
    default_collate,
)

from nntrain import DataLoaders, Key, Learner, accuracy
from nntrain.data.loaders import as_loader
from nntrain.data.stream import Stream
from nntrain.data.torch_loaders import Indexed, Replayed, torch_loader
from nntrain.log import JsonLog
from nntrain.values.bits import same_bits
from nntrain.values.randomness import restoring_rng
from tests.sampled import one_in

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
    whole = list(torch_loader(LOADERS[name](count)).batches(KEY, epoch, 0))
    from_start = list(torch_loader(LOADERS[name](count)).batches(KEY, epoch, start))
    assert same_bits(from_start, whole[start:])


@pytest.mark.parametrize("name", ["in order", "shuffled", "weighted", "own batch sampler", "whole batches"])
def test_nothing_before_the_start_is_made(name: str) -> None:
    loader = LOADERS[name](12)
    batches = torch_loader(loader).batches(KEY, 0, 2)
    next(batches)
    assert isinstance(loader.dataset, Noisy)
    assert len(loader.dataset.asked) <= 3


def test_a_million_samples_are_not_counted_through_to_reach_the_last_batch() -> None:
    data = Noisy(1_000_000)
    (batch,) = torch_loader(DataLoader(data, batch_size=64, shuffle=True)).batches(KEY, 0, 15_624)
    assert len(batch[1]) == len(data.asked) == 64


def test_workers_change_no_bit() -> None:
    alone, two = (
        list(torch_loader(DataLoader(Noisy(20), batch_size=3, shuffle=True, num_workers=workers)).batches(KEY, 1, 2))
        for workers in (0, 2)
    )
    assert same_bits(alone, two)


class Everywhere(Noisy):
    """Noise from the generators of torch, Python and NumPy, with the second number of a pair that NumPy makes."""

    def __getitem__(self, index: int) -> Any:
        if index == self.broken:
            raise RuntimeError(f"sample {index} is broken")
        drawn = [random.random(), random.gauss(0.0, 1.0), np.random.rand(), np.random.randn(), torch.rand(()).item()]
        return torch.tensor(drawn, dtype=torch.float64), torch.tensor(index)

    broken = -1


def _scaled(samples: list[Any]) -> Any:
    inputs, targets = default_collate(samples)
    return inputs * random.random() * np.random.rand() + torch.rand(()), targets


EVERYWHERE: dict[str, Callable[[int], DataLoader[Any]]] = {
    "in order": lambda workers: DataLoader(Everywhere(14), batch_size=3, num_workers=workers),
    "shuffled": lambda workers: DataLoader(Everywhere(14), batch_size=3, shuffle=True, num_workers=workers),
    "collated at random": lambda workers: DataLoader(Everywhere(14), 3, collate_fn=_scaled, num_workers=workers),
    "spawned": lambda workers: DataLoader(
        Everywhere(14), 3, num_workers=workers, multiprocessing_context="spawn" if workers else None
    ),
}


@pytest.mark.parametrize("name", one_in(2, EVERYWHERE))
def test_transforms_draw_alike_with_any_number_of_workers_and_from_any_start(name: str) -> None:
    alone = list(torch_loader(EVERYWHERE[name](0)).batches(KEY, 1, 0))
    numbers = torch.cat([inputs for inputs, _ in alone])
    assert len(set(numbers.flatten().tolist())) == numbers.numel(), (
        "a number comes again: a generator was seeded alike twice"
    )
    for start in range(6) if name != "spawned" else ():
        assert same_bits(list(torch_loader(EVERYWHERE[name](0)).batches(KEY, 1, start)), alone[start:])
    for workers, start in ((1, 0), (2, 3)) if name != "spawned" else ((1, 2),):
        assert same_bits(list(torch_loader(EVERYWHERE[name](workers)).batches(KEY, 1, start)), alone[start:])
    assert not same_bits(list(torch_loader(EVERYWHERE[name](0)).batches(KEY, 2, 0)), alone)


class Shuffles:
    """A sampler, and a source of samples, that draw from Python and NumPy."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.count))
        random.shuffle(order)
        for index in np.random.permutation(order).tolist():
            yield index if random.random() < 0.8 else int(np.random.randint(self.count))


class Drawn(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for index in range(12):
            yield torch.tensor([random.random(), np.random.randn(), torch.rand(()).item(), index])


class Made(Sequence[Any]):
    """Batches that are made when they are asked for."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: Any) -> Any:
        return torch.tensor([random.random(), np.random.randn(), torch.rand(()).item(), index])


DRAWING: dict[str, Callable[[], Any]] = {
    "own sampler": lambda: DataLoader(Everywhere(15), 3, sampler=Shuffles(15)),
    "iterable dataset": lambda: DataLoader(Drawn(), batch_size=3),
    "iterable dataset, worker": lambda: DataLoader(Drawn(), batch_size=3, num_workers=1),
    "plain iterable": lambda: Drawn(),
    "sequence": Made,
    "workers": lambda: EVERYWHERE["shuffled"](2),
    "no worker": lambda: EVERYWHERE["shuffled"](0),
}


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def draw() -> None:
    random.random()
    np.random.rand()
    torch.rand(())


def generators_state() -> object:
    numpy: Any = np.random.get_state(legacy=False)
    inner = {name: value.tolist() if name == "key" else value for name, value in numpy.pop("state").items()}
    return random.getstate(), inner, numpy, torch.get_rng_state().tolist()


def read(loader: Any, epoch: int, start: int) -> list[Any]:
    """Read an epoch as a training does, and draw in between as a training's owner may."""
    stream = Stream(as_loader(loader, "train"), 0)
    found: list[Any] = []
    while True:
        with restoring_rng([torch.default_generator]):
            batch = stream.batch(KEY, epoch, start + len(found))
        if batch is None:
            return found
        found.append(batch[0])
        draw()


@pytest.mark.parametrize("name", DRAWING)
def test_what_is_drawn_is_of_key_epoch_and_batch_and_the_owner_s_generators_are_left_alone(name: str) -> None:
    seed(1)
    np.random.randn()  # the second of the pair waits to be given
    whole = read(DRAWING[name](), 0, 0)
    for number in range(2):
        seed(number)
        assert same_bits(read(DRAWING[name](), 0, 2), whole[2:])
    assert not same_bits(read(DRAWING[name](), 1, 0), whole)

    np.random.randn()
    before = generators_state()
    batches = as_loader(DRAWING[name](), "train").batches(KEY, 0, 0)
    with restoring_rng([torch.default_generator]):
        next(batches)
        next(batches)
    assert generators_state() == before


def test_generators_are_put_back_after_a_transform_that_fails() -> None:
    data = Everywhere(6)
    data.broken = 4
    batches = torch_loader(DataLoader(data, batch_size=3)).batches(KEY, 0, 0)
    np.random.randn()
    before = generators_state()
    with restoring_rng([torch.default_generator]):
        next(batches)
        with pytest.raises(RuntimeError, match="sample 4 is broken"):
            next(batches)
    assert generators_state() == before


def test_epochs_are_shuffled_anew_and_the_same_epoch_alike() -> None:
    def order(epoch: int, seed: int) -> list[int]:
        made = torch_loader(DataLoader(Noisy(50), batch_size=3, shuffle=True)).batches(Key(seed=seed), epoch, 0)
        return [int(index) for _, indices in made for index in indices]

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


def test_the_loader_s_own_options_are_kept() -> None:
    loader = DataLoader(Noisy(8), batch_size=4, collate_fn=len)
    assert list(torch_loader(loader).batches(KEY, 0, 0)) == [4, 4]


def _refuse(worker: int) -> None:
    raise OSError(f"worker {worker} was begun")


def test_workers_are_begun_by_the_owner_s_function() -> None:
    loader = DataLoader(Noisy(8), batch_size=4, num_workers=1, worker_init_fn=_refuse)
    with pytest.raises(OSError, match="worker 0 was begun"):
        list(torch_loader(loader).batches(KEY, 0, 0))


def _open(worker: int) -> None:
    info = torch.utils.data.get_worker_info()
    dataset: Any = info.dataset if info is not None else None
    dataset.opened = 100


class Opened(Noisy):
    """Is opened in each worker."""

    opened = 0

    def __getitem__(self, index: int) -> Batch:
        return torch.rand(3), torch.tensor(index + self.opened)


@pytest.mark.sweep
def test_a_worker_s_function_finds_the_owner_s_dataset() -> None:
    loader = DataLoader(Opened(4), batch_size=4, num_workers=1, worker_init_fn=_open)
    ((_, indices),) = torch_loader(loader).batches(KEY, 0, 0)
    assert indices.tolist() == [100, 101, 102, 103]


def test_a_loader_with_an_iterator_of_its_own_is_replayed() -> None:
    class Doubled(DataLoader[Batch]):
        def _get_iterator(self) -> Any:
            return ((inputs * 0 + 2, target) for inputs, target in super()._get_iterator())

    ((inputs, _),) = torch_loader(Doubled(Noisy(4), batch_size=4)).batches(KEY, 0, 0)
    assert inputs.eq(2).all()


def test_a_loader_that_iterates_its_own_way_is_replayed() -> None:
    class Twice(DataLoader[Batch]):
        def __iter__(self) -> Any:
            for batch in super().__iter__():
                yield batch
                yield batch

    assert isinstance(torch_loader(Twice(Noisy(4), batch_size=2)), Replayed)
    assert len(list(torch_loader(Twice(Noisy(4), batch_size=2)).batches(KEY, 0, 1))) == 3


def test_torchdata_s_loader_is_read_by_index_where_its_data_allow() -> None:
    try:
        stateful = importlib.import_module("torchdata.stateful_dataloader").StatefulDataLoader
    except ImportError:
        pytest.skip("torchdata is not installed")
    made = torch_loader(stateful(Noisy(12), batch_size=3, shuffle=True))
    assert isinstance(made, Indexed)
    assert same_bits(list(made.batches(KEY, 0, 2)), list(made.batches(KEY, 0, 0))[2:])
    assert isinstance(torch_loader(stateful(Rows(), batch_size=3)), Replayed)


@pytest.mark.sweep
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
