"""`set_epoch`: whatever of a loader has it is told each epoch, so that epochs differ and any of them can be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from datasets.arrow_dataset import Dataset as Table
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    TensorDataset,
)

from nntrain import DataLoaders, Learner, advance, fit_step, on
from nntrain.data import HFLoader
from nntrain.data.epochs import MOST_PARTS, parts_of, tell_epoch
from nntrain.data.loaders import as_loader
from nntrain.values.key import Key
from nntrain.values.state import TrainState
from tests.data.images.pictures import numbered
from tests.sampled import one_in

ROWS = 12
DATA = TensorDataset(torch.arange(float(ROWS))[:, None], torch.zeros(ROWS, 1))
VALID = [(torch.zeros(1, 1), torch.zeros(1, 1))]


def shuffled(epoch: int, count: int = ROWS) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(epoch)).tolist()


class Told:
    """Is told the epoch, and remembers nothing else."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Orders(Told):
    """A sampler whose order is the epoch's."""

    def __iter__(self) -> Iterator[int]:
        return iter(shuffled(self.epoch))

    def __len__(self) -> int:
        return ROWS


class Batches(Told):
    """A batch sampler whose order is the epoch's."""

    def __iter__(self) -> Iterator[list[int]]:
        order = shuffled(self.epoch)
        for first in range(0, ROWS, 4):
            yield order[first : first + 4]


class Around:
    """A wrapper that knows nothing of epochs, with its parts in slots."""

    __slots__ = ("inside",)

    def __init__(self, inside: Any) -> None:
        self.inside = [inside]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inside[0])

    def __len__(self) -> int:
        return len(self.inside[0])


class Turned(Told, Dataset[Any]):
    """Samples that the epoch changes."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([float(shuffled(self.epoch)[index])]), torch.zeros(1)


class Stream(Told, IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for row in shuffled(self.epoch):
            yield torch.tensor([float(row)]), torch.zeros(1)


class Wrapped(IterableDataset[Any]):
    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inside)


class Collate(Told):
    def __call__(self, samples: list[Any]) -> Any:
        return torch.stack([row + 100 * self.epoch for row, _ in samples]), torch.stack([y for _, y in samples])


class Lazy(Told, Sequence[Any]):
    """A sequence of batches that the epoch orders."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: Any) -> Any:
        return torch.tensor([[float(shuffled(self.epoch)[index])]]), torch.zeros(1, 1)


def hugging_face(workers: int = 0) -> DataLoader[Any]:
    table = Table.from_dict({"x": [[float(row)] for row in range(ROWS)], "label": [[0.0]] * ROWS})
    stream: Any = table.to_iterable_dataset(num_shards=4).shuffle(seed=1, buffer_size=8).with_format("torch")
    return DataLoader(stream, batch_size=4, num_workers=workers)


LOADERS: dict[str, Callable[[], Any]] = {
    "DistributedSampler": lambda: DataLoader(DATA, 4, sampler=DistributedSampler(DATA, num_replicas=1, rank=0)),
    "sampler": lambda: DataLoader(DATA, 4, sampler=Orders()),
    "sampler, workers": lambda: DataLoader(DATA, 4, sampler=Orders(), num_workers=2),
    "wrapped sampler": lambda: DataLoader(DATA, 4, sampler=Around(Around(Orders()))),
    "batch sampler": lambda: DataLoader(DATA, batch_sampler=Batches()),
    "wrapped batch sampler": lambda: DataLoader(DATA, batch_sampler=Around(Batches())),
    "sampler in a batch sampler": lambda: DataLoader(DATA, batch_sampler=BatchSampler(Orders(), 4, drop_last=False)),
    "data set": lambda: DataLoader(Turned(), 4),
    "data set, workers": lambda: DataLoader(Turned(), 4, num_workers=2),
    "wrapped data set": lambda: DataLoader(Subset(ConcatDataset([Turned()]), range(ROWS)), 4),
    "iterable data set": lambda: DataLoader(Stream(), 4),
    "iterable data set, worker": lambda: DataLoader(Stream(), 4, num_workers=1),
    "wrapped iterable data set": lambda: DataLoader(Wrapped(Wrapped(Stream())), 4),
    "collate_fn": lambda: DataLoader(DATA, 4, collate_fn=Collate()),
    "bound collate_fn": lambda: DataLoader(DATA, 4, collate_fn=Collate().__call__),
    "partial collate_fn": lambda: DataLoader(DATA, 4, collate_fn=partial(Collate())),
    "datasets": hugging_face,
    "datasets, workers": lambda: hugging_face(2),
    "plain iterable": lambda: Around(DataLoader(DATA, 4, sampler=Orders())),
    "sequence": Lazy,
}


def learner(train: Any, seen: dict[int, list[float]] | None = None) -> Learner[Any]:
    @on("before_batch")
    def look(state: TrainState, batch: Any) -> TrainState:
        inputs: Tensor = batch["x"] if isinstance(batch, dict) else batch[0]
        if state.progress.phase == "train" and seen is not None:
            seen.setdefault(state.progress.epoch, []).extend(inputs.flatten().tolist())
        return state

    torch.manual_seed(0)
    dls: DataLoaders[Any] = DataLoaders(train, VALID)
    return Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, nn.functional.l1_loss, torch.optim.SGD, 1e-4, [look])


@pytest.mark.parametrize("name", one_in(2, LOADERS))
def test_each_epoch_has_another_order_and_a_resumed_run_is_the_straight_one(name: str) -> None:
    seen: dict[int, list[float]] = {}
    straight = learner(LOADERS[name](), seen).fit(3, print_stats=False).state
    assert len({tuple(order) for order in seen.values()}) == 3
    assert all(len(order) == ROWS for order in seen.values())

    one = learner(LOADERS[name]())
    state = one.init(0, epochs=3)
    while (state.progress.epoch, state.progress.phase, state.progress.batch) != (1, "train", 2):
        state = advance(one, state).state
    rest: dict[int, list[float]] = {}
    assert fit_step(learner(LOADERS[name](), rest), state).state == straight
    assert rest[2] == seen[2]
    assert seen[1][-len(rest[1]) :] == rest[1]


def test_a_sampler_with_set_epoch_has_the_orders_of_a_loop_that_calls_it() -> None:
    sampler: DistributedSampler[Any] = DistributedSampler(DATA, num_replicas=1, rank=0, seed=5)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append([float(index) for index in sampler])
    seen: dict[int, list[float]] = {}
    own: DistributedSampler[Any] = DistributedSampler(DATA, num_replicas=1, rank=0, seed=5)
    learner(DataLoader(DATA, 4, sampler=own), seen).fit(3, print_stats=False)
    assert [seen[epoch] for epoch in range(3)] == orders


def test_the_transform_of_a_data_set_of_images_is_told() -> None:
    class Faded(Told):
        def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            return {**columns, "image": [one.point(lambda _: self.epoch) for one in columns["image"]]}

    loader = HFLoader(numbered(2).with_transform(Faded()), 2, "image", "label")
    assert [next(loader.batches(Key(seed=0), epoch, 0))[0].mul(255).tolist() for epoch in (0, 7)] == [
        [[0.0], [0.0]],
        [[7.0], [7.0]],
    ]


def test_a_wrapper_has_the_last_word() -> None:
    class Later(Told):
        def __init__(self, inside: Told) -> None:
            self.inside = inside

        def set_epoch(self, epoch: int) -> None:
            self.inside.set_epoch(epoch + 100)

    inner = Told()
    tell_epoch(Later(inner), 3)
    assert inner.epoch == 103


def test_the_valid_loader_is_told_too() -> None:
    sampler = Orders()
    dls: DataLoaders[Any] = DataLoaders(VALID, DataLoader(DATA, 4, sampler=sampler))
    learner(VALID).replace(dls=dls, subs=[]).fit(3, print_stats=False)
    assert sampler.epoch == 2


def test_circles_are_gone_round_once_and_data_are_not_looked_through() -> None:
    class Holder:
        me: Any
        rows: Any

    holder = Holder()
    holder.me = holder
    holder.rows = [Told() for _ in range(100_000)]
    assert parts_of(holder) == [holder, holder.rows]
    holder.rows = [[Told() for _ in range(200)] for _ in range(100)]
    assert len(parts_of(holder)) < MOST_PARTS + 1000


def test_an_error_of_set_epoch_passes_on() -> None:
    class Broken(Orders):
        def set_epoch(self, epoch: int) -> None:
            raise KeyError(f"epoch {epoch}")

    with pytest.raises(KeyError, match="epoch 2"):
        as_loader(DataLoader(DATA, 4, sampler=Broken()), "train").batches(Key(seed=0), 2, 0)
