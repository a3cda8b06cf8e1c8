"""Every sample is on one rank, and the parts of a batch put together are the batch of one process, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from nntrain import Key
from nntrain.data import HFLoader, ResidentLoader, per_rank, segments, transformed
from nntrain.data.divided import Divided
from nntrain.data.dividing import Part, makes_parts
from nntrain.data.loaders import Loader, as_loader
from nntrain.data.per_rank import PerRank
from nntrain.data.stream import Stream
from nntrain.errors import DataError
from nntrain.ranks.world import World
from tests.data.images.pictures import numbered


class Rows(Dataset[tuple[Tensor, int]]):
    """Items by index; with `noisy` each draws from a global generator, `seen` are those that were made."""

    def __init__(self, samples: int, *, noisy: bool = False) -> None:
        self.samples, self.noisy, self.seen = samples, noisy, list[int]()

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.seen.append(index)
        return torch.full((2,), float(index)) + (random.random() if self.noisy else 0.0), index


class Streamed(IterableDataset[tuple[Tensor, int]]):
    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return ((torch.full((2,), float(index)), index) for index in range(self.samples))


def resident(samples: int, size: int) -> ResidentLoader:
    images = torch.arange(samples * 4, dtype=torch.int64).to(torch.uint8).view(samples, 1, 2, 2)
    return ResidentLoader(images, torch.arange(samples), size, shuffle=True)


def by_batches(samples: int, size: int) -> DataLoader[Any]:
    rows = Rows(samples)
    return DataLoader(rows, batch_sampler=Odd(BatchSampler(RandomSampler(rows), size, drop_last=False)))


class Odd:
    """A batch sampler of the user's."""

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[::-1] for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def noise(batch: Any) -> Any:
    return [batch[0] + torch.rand(len(batch[0]), *[1] * (batch[0].ndim - 1)), *batch[1:]]


def counted(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Collate in a way that depends on the whole batch."""
    return torch.tensor([len(items)] * len(items)), torch.tensor([index for _, index in items])


KINDS: dict[str, Callable[[int, int], Any]] = {
    "list": lambda n, size: [(torch.arange(at, min(at + size, n)),) for at in range(0, n, size)],
    "resident": resident,
    "streamed": lambda n, size: HFLoader(numbered(n), size, "image", "label", shuffle=True),
    "tensors": lambda n, size: DataLoader(TensorDataset(torch.arange(n)), batch_size=size, shuffle=True),
    "items": lambda n, size: DataLoader(Rows(n), batch_size=size, shuffle=True),
    "items that draw": lambda n, size: DataLoader(Rows(n, noisy=True), batch_size=size, shuffle=True),
    "batch sampler": by_batches,
    "own collate": lambda n, size: DataLoader(Rows(n), batch_size=size, collate_fn=counted),
    "iterable": lambda n, size: DataLoader(Streamed(n), batch_size=size),
    "transformed": lambda n, size: transformed(resident(n, size), noise),
    "segments": lambda n, size: segments(resident(n, size), 3),
    "segments of items": lambda n, size: segments(DataLoader(Rows(n), batch_size=size, shuffle=True), 3),
}
APART = {
    "resident",
    "streamed",
    "tensors",
    "items",
    "items that draw",
    "batch sampler",
    "segments",
    "segments of items",
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(samples=st.integers(1, 14), size=st.integers(1, 6), ranks=st.integers(1, 5), data=st.data())
def test_parts_are_the_batches_of_one_process(
    kind: str, samples: int, size: int, ranks: int, data: st.DataObject
) -> None:
    make: Callable[[], Any] = partial(KINDS[kind], samples, size)
    whole = read(as_loader(make(), "it"), 0)
    start = data.draw(st.integers(0, len(whole)))
    loaders = [Divided(as_loader(make(), "it"), World(rank, ranks)) for rank in range(ranks)]
    parts = [read(loader, start) for loader in loaders]
    assert all(len(one) == len(whole) - start for one in parts)
    assert makes_parts(as_loader(make(), "it")) is (kind in APART)
    for batch, *of_ranks in zip(whole[start:], *parts, strict=True):
        assert all(one.total == len(batch[-1]) for one in of_ranks)
        assert sum(one.rows for one in of_ranks) == len(batch[-1])
        assert max(one.rows for one in of_ranks) - min(one.rows for one in of_ranks) <= 1
        assert all(len(one.batch[-1]) == max(one.rows, 1) for one in of_ranks)
        for at, tensor in enumerate(batch):
            together = torch.cat([one.batch[at][: one.rows] for one in of_ranks])
            assert together.dtype == tensor.dtype
            assert torch.equal(together, tensor)


def read(loader: Any, start: int) -> list[Any]:
    """Return what a training reads of epoch 1, batch after batch."""
    stream = Stream(loader, 7)
    found: list[Any] = []
    while (batch := stream.batch(Key(seed=3), 1, start + len(found))) is not None:
        found.append(batch[0])
    return found


def test_a_rank_makes_its_own_items_alone_until_one_draws() -> None:
    for noisy, made in ((False, 8), (True, 2 + 4 * 8)):  # of the first batch its own, and then all of each
        rows = Rows(32, noisy=noisy)
        loader = Divided(as_loader(DataLoader(rows, batch_size=8), "it"), World(1, 4))
        assert len([*loader.batches(Key(seed=0), 0, 0)]) == 4
        assert len(rows.seen) == made


def test_no_row_of_another_rank_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    from nntrain.data.images import resident as module

    gathered, gather = list[int](), module._gather

    def counting(source: Any, rows: Any, **how: bool) -> Tensor:
        gathered.append(len(rows))
        return gather(source, rows, **how)

    monkeypatch.setattr(module, "_gather", counting)
    [*resident(16, 8).parts(Key(seed=0), 0, 0, World(2, 4))]
    assert gathered == [2] * 4


class Barrier:
    """What ranks in threads of one process tell each other."""

    def __init__(self, ranks: int) -> None:
        self.boxes = [[SimpleQueue[int]() for _ in range(ranks)] for _ in range(ranks)]

    def teller(self, rank: int) -> Any:
        def tell(number: int) -> Any:
            for box in self.boxes:
                box[rank].put(number)
            return Once(lambda: [box.get(timeout=20) for box in self.boxes[rank]])

        return tell


class Once:
    def __init__(self, read: Any) -> None:
        self.read, self.found = read, list[int]()

    def __call__(self) -> list[int]:
        self.found = self.found or self.read()
        return self.found


def in_threads(loaders: list[Loader[Any]], start: int) -> list[Any]:
    barrier, found = Barrier(len(loaders)), dict[int, Any]()

    def run(rank: int) -> None:
        try:
            parts = PerRank(loaders[rank], barrier.teller(rank)).parts(Key(seed=0), 0, start, World(rank, len(loaders)))
            found[rank] = [*parts]
        except DataError as error:
            found[rank] = error

    threads = [Thread(target=run, args=(rank,), daemon=True) for rank in range(len(loaders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return [found[rank] for rank in range(len(loaders))]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=4), st.integers(0, 5))
def test_a_rank_that_has_run_out_goes_on_with_nothing(rows: list[list[int]], start: int) -> None:
    whole = [
        [(torch.arange(count) + 100 * rank + 10 * at,) for at, count in enumerate(of)] for rank, of in enumerate(rows)
    ]
    parts: list[list[Part[Any]]] = in_threads([as_loader(one, "it") for one in whole], start)
    assert {len(one) for one in parts} == {max(0, max(map(len, rows)) - start)}
    for rank, own in enumerate(parts):
        counted = [one.batch[0] for one in own if one.rows]
        assert [one.tolist() for one in counted] == [one[0].tolist() for one in whole[rank][start:]]
        assert all(len(one.batch[0]) == 1 for one in own if not one.rows)
    for together in zip(*parts, strict=True):
        assert {one.total for one in together} == {sum(one.rows for one in together)}


def test_a_rank_without_a_batch_ends_all() -> None:
    found = in_threads([as_loader([(torch.arange(2),)], "it"), as_loader(DataLoader(Streamed(0)), "it")], 0)
    assert all(isinstance(one, DataError) and "rank 1 has no batch" in str(one) for one in found)


def test_one_process_reads_the_loader_as_it_is() -> None:
    loader = per_rank(DataLoader(Streamed(5), batch_size=2))
    assert [len(batch[1]) for batch in loader] == [2, 2, 1]
    assert [(one.rows, one.total) for one in loader.parts(Key(seed=0), 0, 1, World())] == [(2, 2), (1, 1)]
