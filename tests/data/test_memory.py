"""Samplers and iterables that remember what was read of them: any epoch is exact, or it is told that it may not be."""

from __future__ import annotations

import gc
import random
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset

from nntrain import Key, advance, fit_step
from nntrain.data.loaders import as_loader
from nntrain.data.memory import History
from nntrain.errors import DataWarning
from nntrain.log import JsonLog, WarningEvent
from nntrain.log import read as read_log
from tests.data.test_epochs import learner

ROWS = 12
DATA = TensorDataset(torch.arange(float(ROWS))[:, None], torch.zeros(ROWS, 1))


class Sampler:
    """A sampler that remembers nothing."""

    def __init__(self) -> None:
        self.rows = list(range(ROWS))
        self.begun = 0
        self.kept: list[int] | None = None
        self.python = random.Random(0)
        self.numpy = np.random.default_rng(0)
        self.torch = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Iterator[int]:
        order = list(self.rows)
        random.shuffle(order)
        return iter(order)


class Counts(Sampler):
    def __iter__(self) -> Iterator[int]:
        self.begun += 1
        return iter(torch.randperm(ROWS, generator=torch.Generator().manual_seed(self.begun)).tolist())


class CountsAtTheEnd(Sampler):
    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(ROWS, generator=torch.Generator().manual_seed(self.begun)).tolist()
        self.begun += 1


class InPlace(Sampler):
    def __iter__(self) -> Iterator[int]:
        random.shuffle(self.rows)
        return iter(self.rows)


class Keeps(Sampler):
    def __iter__(self) -> Iterator[int]:
        if self.kept is None:
            self.kept = torch.randperm(ROWS).tolist()
        return iter(self.kept)


class OfPython(Sampler):
    def __iter__(self) -> Iterator[int]:
        return iter(self.python.sample(self.rows, ROWS))


class OfNumpy(Sampler):
    def __iter__(self) -> Iterator[int]:
        return iter(self.numpy.permutation(ROWS).tolist())


class OfTorch(Sampler):
    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(ROWS, generator=self.torch).tolist())


class Batches(InPlace):
    def __iter__(self) -> Iterator[Any]:
        order = list(super().__iter__())
        return iter([order[first : first + 4] for first in range(0, ROWS, 4)])

    def __len__(self) -> int:
        return ROWS // 4


def loader(sampler: Any) -> DataLoader[Any]:
    return DataLoader(DATA, 4, sampler=sampler)


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "forgets": lambda: loader(Sampler()),
    "counts": lambda: loader(Counts()),
    "counts at the end": lambda: loader(CountsAtTheEnd()),
    "in place": lambda: loader(InPlace()),
    "keeps its draw": lambda: loader(Keeps()),
    "random": lambda: loader(OfPython()),
    "numpy": lambda: loader(OfNumpy()),
    "torch": lambda: loader(OfTorch()),
    "batch sampler": lambda: DataLoader(DATA, batch_sampler=Batches()),
    "in a batch sampler": lambda: DataLoader(DATA, batch_sampler=BatchSampler(Counts(), 4, drop_last=False)),
    "workers": lambda: DataLoader(DATA, 4, sampler=InPlace(), num_workers=1),
}
QUICK = [name for name in LOADERS if name != "workers"]


@pytest.fixture(autouse=True)
def nothing_is_told() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        yield


@pytest.mark.parametrize("name", LOADERS)
def test_a_resumed_run_is_the_straight_one_and_so_is_a_second_one(name: str) -> None:
    seen: dict[int, list[float]] = {}
    one = learner(LOADERS[name](), seen)
    straight = one.fit(3, print_stats=False).state
    assert len({tuple(order) for order in seen.values()}) == (1 if name == "keeps its draw" else 3)
    assert one.fit(3, print_stats=False).state == straight

    state = learner(LOADERS[name]()).init(0, epochs=3)
    other = learner(LOADERS[name]())
    while (state.progress.epoch, state.progress.phase, state.progress.batch) != (1, "train", 2):
        state = advance(other, state).state
    for resumed in (LOADERS[name](), other.dls.train):
        assert fit_step(learner(resumed), state).state == straight


def orders(read: DataLoader[Any], epoch: int, start: int = 0, most: int | None = None) -> list[int]:
    batches = islice(as_loader(read, "train").batches(Key(seed=3), epoch, start), most)
    return [int(row) for rows, _ in batches for row in rows.flatten()]


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=10)
@given(
    reads=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from([None, 1])), min_size=1, max_size=4)
)
def test_an_order_is_the_same_whatever_was_read_before(name: str, reads: list[tuple[int, int, int | None]]) -> None:
    straight = LOADERS[name]()
    wanted = [orders(straight, epoch) for epoch in range(4)]
    read = LOADERS[name]()
    for epoch, start, most in reads:
        end = None if most is None else (start + most) * 4
        assert orders(read, epoch, start, most) == wanted[epoch][start * 4 : end]


def test_a_sampler_that_forgets_is_read_itself_so_that_its_owner_may_change_it() -> None:
    sampler = Sampler()
    read = loader(sampler)
    orders(read, 0)
    sampler.rows = [1, 2, 3]
    assert sorted(orders(read, 3)) == [1, 2, 3]


def test_the_data_are_not_copied_with_the_sampler() -> None:
    class Uncopied(TensorDataset):
        def __deepcopy__(self, memo: object) -> Any:
            raise AssertionError("copied")

    class Over(InPlace):
        def __init__(self, data: Any) -> None:
            super().__init__()
            self.data = data

    data = Uncopied(*DATA.tensors)
    read = DataLoader(data, 4, sampler=Over(data))
    wanted = orders(DataLoader(data, 4, sampler=InPlace()), 0)
    orders(read, 1)
    assert orders(read, 0) == wanted


def test_a_loader_is_free_when_its_owner_lets_it_go() -> None:
    class Own(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(DATA)

    makers: list[Callable[[], DataLoader[Any]]] = [lambda: loader(InPlace()), lambda: DataLoader(Own(), 4)]
    for make in makers:
        made = make()
        orders(made, 0)
        gone = weakref.ref(made)
        del made
        gc.collect()
        assert gone() is None


class Endless(Counts):
    def __iter__(self) -> Iterator[int]:
        order = list(super().__iter__())
        return (order[number % ROWS] for number in count())


class Held(Sampler):
    def __init__(self) -> None:
        super().__init__()
        self.going = (number % ROWS for number in count())

    def __iter__(self) -> Iterator[int]:
        return islice(self.going, ROWS)


class GoesOn(IterableDataset[Any]):
    """Begins where it stopped."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Iterator[Any]:
        for _ in range(ROWS):
            self.place += 1
            yield DATA[self.place % 7]


class Goes(GoesOn):
    """Goes on from an iterator that it holds."""

    def __init__(self) -> None:
        self.going = (DATA[number % 7] for number in count())

    def __iter__(self) -> Iterator[Any]:
        return islice(self.going, ROWS)


class Later(GoesOn):
    def __iter__(self) -> Iterator[Any]:
        yield from (DATA[(self.place + number) % 7] for number in range(ROWS))
        self.place += 1


TOLD: dict[str, tuple[Callable[[], Any], str]] = {
    "endless sampler": (lambda: loader(Endless()), "Endless remembers epochs, and one of them does not end"),
    "sampler with an iterator": (lambda: loader(Held()), "Held cannot be copied"),
    "iterable data set": (lambda: DataLoader(GoesOn(), 4), r"changes as it is read \(GoesOn.place\)"),
    "with an iterator": (lambda: DataLoader(Goes(), 4), r"changes as it is read \(Goes.going\)"),
    "at its end": (lambda: DataLoader(Later(), 4), r"changes as it is read \(Later.place\)"),
    "plain iterable": (GoesOn, r"GoesOn changes as it is read \(GoesOn.place\)"),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_cannot_be_exact_is_told_where_it_is_read_out_of_order_and_not_before(name: str) -> None:
    make, said = TOLD[name]
    read = as_loader(make(), "train")
    most = 3 if name == "endless sampler" else None
    for epoch in (0,) if name == "endless sampler" else (0, 1):
        list(islice(read.batches(Key(seed=3), epoch, 0), most))  # no word
    for resumed in (read, as_loader(make(), "train")):
        with pytest.warns(DataWarning, match=said + ".*epoch 3 may not be read.*set_epoch"):
            list(islice(resumed.batches(Key(seed=3), 3, 1), most))


def test_the_log_is_told_too(tmp_path: Path) -> None:
    one = learner(DataLoader(GoesOn(), 4))
    state = one.init(0, epochs=2)
    while (state.progress.epoch, state.progress.batch) != (1, 1):
        state = advance(one, state).state
    with JsonLog(tmp_path / "log.jsonl") as log, pytest.warns(DataWarning, match="epoch 1 may not"):
        fit_step(learner(DataLoader(GoesOn(), 4)).replace(sinks=[log]), state)
    told = [line.event for line in read_log(tmp_path / "log.jsonl") if isinstance(line.event, WarningEvent)]
    assert [one.code for one in told] == ["data.memory"]
    assert "epoch 1 may not be read" in told[0].text


def test_loaders_that_are_equal_have_each_a_history() -> None:
    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

    assert History.of(Equal()) is not History.of(Equal())
    one = loader(Sampler())
    assert History.of(one) is History.of(one)
