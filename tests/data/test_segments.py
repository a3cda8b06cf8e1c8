"""`segments`: an epoch of k batches that goes on through the data, at any place what the endless run has there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from nntrain import Key
from nntrain.data import segments
from nntrain.data.loaders import as_loader, rows_of, sizes_of
from nntrain.data.stream import Stream
from nntrain.errors import ConfigError, DataError, NNTrainError
from nntrain.values.bits import same_bits

ROWS: Final = torch.arange(7.0)
KEY: Final = Key(seed=3)


class Noisy(Dataset[Tensor]):
    """Rows with noise that an item draws: its batch is seeded."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Tensor:
        return ROWS[index] + torch.rand(())


class Rows(IterableDataset[Tensor]):
    """Rows of an iterable data set, which has no length."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from ROWS


class Keyed:
    """A loader of one's own, without a length: the epochs have other lengths, and the batches draw."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Tensor]:
        """Yield 2, 3 or 4 batches."""
        for index in range(start, 2 + key.derived(epoch) % 3):
            yield torch.tensor([epoch, index, torch.rand(()).item()])


class Sized(Keyed):
    """One that says its length."""

    def __len__(self) -> int:
        return 3

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Tensor]:
        """Yield three batches."""
        yield from (torch.tensor([epoch, index, torch.rand(()).item()]) for index in range(start, 3))


LOADERS: Final[dict[str, Callable[[], Any]]] = {
    "list": lambda: list(ROWS),
    "shuffled": lambda: DataLoader(TensorDataset(ROWS), 3, shuffle=True),
    "noisy": lambda: DataLoader(Noisy(), 3, sampler=RandomSampler(Noisy(), replacement=True)),
    "iterable": lambda: DataLoader(Rows(), 3),
    "iterable with a length": lambda: DataLoader(TensorDataset(ROWS), 3, shuffle=True, generator=torch.Generator()),
    "own": Keyed,
    "own with a length": Sized,
}


def endless(loader: Any) -> Iterator[Any]:
    """Yield the batches of the inner epochs, one after the other."""
    inner, epoch = as_loader(loader, "loader"), 0
    while True:
        yield from inner.batches(KEY.fold_in(0), epoch, 0)
        epoch += 1


def read(loader: Any, epoch: int, start: int = 0) -> list[Any]:
    """Read an epoch from a start to its end as the machine does."""
    stream: Stream[Any] = Stream(as_loader(loader, "loader"), 0)
    found: list[Any] = []
    while (batch := stream.batch(KEY, epoch, start + len(found))) is not None:
        found += batch
    return found


@pytest.mark.parametrize("name", [name for name in LOADERS if "own" not in name])
@given(size=st.integers(1, 9), epochs=st.integers(1, 5))
@settings(max_examples=10)
def test_the_epochs_are_the_endless_run(name: str, size: int, epochs: int) -> None:
    loader = segments(LOADERS[name](), batches=size)
    found = [batch for epoch in range(epochs) for batch in read(loader, epoch)]
    assert same_bits(found, list(islice(endless(LOADERS[name]()), size * epochs)))


def test_own_loaders_go_on_over_the_ends_of_their_epochs() -> None:
    key = KEY.fold_in(0)
    lengths = [2 + key.derived(epoch) % 3 for epoch in range(9)]
    assert len(set(lengths)) == 3
    places = [(epoch, index) for epoch, length in enumerate(lengths) for index in range(length)]
    loader = segments(Keyed(), batches=5)
    found = [batch for epoch in range(3) for batch in read(loader, epoch)]
    assert [(int(one[0]), int(one[1])) for one in found] == places[:15]


@pytest.mark.parametrize("name", LOADERS)
@given(size=st.integers(1, 9), epoch=st.integers(0, 4), data=st.data())
@settings(max_examples=10)
def test_an_epoch_is_a_function_of_key_epoch_and_start(name: str, size: int, epoch: int, data: st.DataObject) -> None:
    straight = segments(LOADERS[name](), batches=size)
    whole = [read(straight, one) for one in range(epoch + 1)][-1]
    start = data.draw(st.integers(0, size))
    assert len(whole) == size
    assert same_bits(read(segments(LOADERS[name](), batches=size), epoch, start), whole[start:])
    assert same_bits(read(straight, epoch, start), whole[start:])  # gone back
    assert same_bits(read(copy.deepcopy(straight), epoch, start), whole[start:])


def test_going_straight_on_reads_nothing_twice() -> None:
    read_of: list[int] = []

    class Counted(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            for row in range(5):
                read_of.append(row)
                yield ROWS[row]

    loader = segments(DataLoader(Counted(), 1), batches=3)
    for epoch in range(10):
        read(loader, epoch)
    assert read_of[:30] == [0, 1, 2, 3, 4] * 6


def test_a_segment_that_is_left_is_gone_on_from() -> None:
    """A cancelled segment does not lead the next one astray."""
    loader = segments(DataLoader(Rows(), 1), batches=4)
    stream = Stream(loader, 0)
    for index in range(2):
        stream.batch(KEY, 0, index)
    assert same_bits(stream.batch(KEY, 1, 0), (ROWS[4:5],))


def test_the_length_is_known() -> None:
    loader = segments(DataLoader(TensorDataset(torch.rand(8, 1)), 2), batches=3)
    assert len(loader) == 3
    assert sizes_of(loader, "dls.train") == {"batches": 3, "batch_size": 2, "samples": 6}
    assert loader.description == {
        "kind": "segments",
        "batches": 3,
        "of": {"kind": "DataLoader", "start": "by index", "workers": 0},
    }
    assert rows_of(segments(DataLoader(TensorDataset(torch.rand(7, 1)), 2), batches=3)) is None  # which one is short?
    assert sizes_of(segments(iterable(), batches=3), "dls.train") == {"batches": 3}


def iterable() -> DataLoader[Tensor]:
    return DataLoader(Rows(), 3)


@pytest.mark.parametrize(
    ("loader", "batches", "message"),
    [
        ([1], 0, "segments: batches is 0; expected a whole number of 1 or more."),
        ([1], -1, "segments: batches is -1; expected"),
        ([1], True, "segments: batches is True; expected"),
        ([1], 2.0, "segments: batches is 2.0; expected"),
        ([1], None, "segments: batches is None; expected"),
        ([], 3, "segments: list has no batch; expected at least one."),
        (iter([1]), 3, "segments: the loader is list_iterator, which cannot be read once per epoch. Pass a list"),
        (7, 3, "segments: the loader is 7; expected a list of batches, a torch DataLoader, or a loader with"),
        (None, 3, "segments: the loader is None; expected"),
        ("abc", 3, "segments: the loader is a str; expected a list of batches"),
        ({"a": [1]}, 3, "segments: the loader is a dict; expected a list of batches"),
    ],
)
def test_what_cannot_be_meant(loader: Any, batches: Any, message: str) -> None:
    with pytest.raises(NNTrainError) as caught:
        segments(loader, batches)
    assert isinstance(caught.value, (ConfigError, DataError))
    assert str(caught.value).startswith(message)


class Lying(Keyed):
    """One that says another length than it has."""

    def __init__(self, said: int, gives: int) -> None:
        self.said, self.gives = said, gives

    def __len__(self) -> int:
        return self.said

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Tensor]:
        """Yield as many as it does."""
        yield from ROWS[start : self.gives]


class Empty:
    """A loader without a length, and without batches."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Tensor]:
        """Yield nothing."""
        yield from ()


@pytest.mark.parametrize(
    ("loader", "epoch", "message"),
    [
        (
            Lying(3, 2),
            0,
            "segments: Lying says that it has 3 batches, but gave 2 in epoch 0. Where a segment begins",
        ),
        (Lying(3, 4), 0, "segments: Lying says that it has 3 batches, but gave more in epoch 0."),
        (Empty(), 0, "segments: Empty gave no batch in epoch 0; expected at least one."),
        (Empty(), 2, "segments: Empty gave no batch in epoch 0; expected at least one."),
    ],
)
def test_a_loader_that_does_not_keep_its_word(loader: Any, epoch: int, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(segments(loader, batches=5), epoch)
    assert str(caught.value).startswith(message)
