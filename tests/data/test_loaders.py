"""Loaders: what they draw is a function of (key, epoch, batch), and what has no such order is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from datasets.dataset_dict import DatasetDict
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nntrain import DataLoaders, Learner, accuracy, advance, fit_step
from nntrain.data import load_digits
from nntrain.errors import ConfigError, DataError
from nntrain.values.key import Key

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 4, generator=SOURCE), torch.randint(0, 3, (4,), generator=SOURCE)) for _ in range(3)]


class Noisy(Sequence[Batch]):
    """Batches that are made when they are asked for, with noise."""

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, index: Any) -> Any:
        inputs, target = DATA[index]
        return inputs + torch.randn(4, 4), target


class NoisyLoader:
    """A loader of one's own that draws from torch's generator."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        for inputs, target in DATA[start:]:
            yield inputs + torch.randn(4, 4), target

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(Key(seed=0), 0, 0)


class Samples(Dataset[Batch]):
    """Noisy samples for torch's DataLoader."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Batch:
        inputs, target = DATA[index // 4]
        return inputs[index % 4] + torch.randn(4), target[index % 4]


def noisy_digits() -> DatasetDict:
    from torchvision.transforms.functional import (  # type: ignore[import-untyped]  # it has no py.typed
        to_pil_image,
    )

    def noisy(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        noise = torch.randint(0, 255, (len(columns["image"]), 1, 8, 8), dtype=torch.uint8)
        return {**columns, "image": [to_pil_image(one) for one in noise]}

    dd = load_digits()
    small = DatasetDict({name: split.select(range(40)) for name, split in dd.items()})
    small["train"].set_transform(noisy)
    return small


def digits_learner() -> Learner[Batch]:
    torch.manual_seed(0)
    dls = DataLoaders.from_hf_dd(noisy_digits(), batch_size=16)
    return Learner(nn.Linear(64, 10), dls, nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.1)


def learner_of(train: Any) -> Learner[Batch]:
    torch.manual_seed(0)
    return Learner(
        nn.Linear(4, 3), DataLoaders(train, DATA), nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.1
    )


LEARNERS = {
    "lazy sequence": lambda: learner_of(Noisy()),
    "own loader": lambda: learner_of(NoisyLoader()),
    "torch": lambda: learner_of(DataLoader(Samples(), batch_size=4, shuffle=True)),
    "torch, workers": lambda: learner_of(DataLoader(Samples(), batch_size=4, shuffle=True, num_workers=2)),
    "hugging face transform": digits_learner,
}


@pytest.mark.parametrize("name", LEARNERS)
def test_what_a_loader_draws_comes_from_the_key(name: str) -> None:
    straight = LEARNERS[name]().fit(2, print_stats=False).state
    torch.manual_seed(123)
    learner = LEARNERS[name]()
    torch.manual_seed(321)
    generator = torch.get_rng_state()
    assert learner.fit(2, print_stats=False).state == straight
    assert torch.equal(torch.get_rng_state(), generator)
    assert learner.fit(2, seed=1, print_stats=False).state.history != straight.history
    state = learner.init(epochs=2)
    for _ in range(4):
        state = advance(learner, state).state
    assert state.progress.at == "batch"
    assert fit_step(LEARNERS[name](), copy.deepcopy(state)).state == straight


def test_workers_that_stay_are_refused() -> None:
    loader = DataLoader(Samples(), batch_size=4, num_workers=2, persistent_workers=True)
    with pytest.raises(ConfigError, match="persistent_workers=False"):
        learner_of(loader)


def test_an_attribute_named_batches_makes_no_loader() -> None:
    class Mine:
        def __init__(self) -> None:
            self.batches = DATA

        def __iter__(self) -> Iterator[Batch]:
            return iter(self.batches)

    assert learner_of(Mine()).fit(1, print_stats=False).state == learner_of(DATA).fit(1, print_stats=False).state


@pytest.mark.parametrize("name", ["train", "valid"])
def test_an_empty_phase_is_told_at_once(name: str) -> None:
    class Loaders:
        train: Sequence[Batch] = DATA
        valid: Sequence[Batch] = DATA

    dls = Loaders()
    setattr(dls, name, [])
    with pytest.raises(DataError, match=f"dls.{name} has no batch"):
        learner_of(DATA).replace(dls=dls)


def test_what_can_only_be_iterated_is_iterated_once_a_phase() -> None:
    class Counted:
        begun = 0

        def __iter__(self) -> Iterator[Batch]:
            self.begun += 1
            return iter(DATA)

    data = Counted()
    learner_of(data).fit(3, print_stats=False)
    assert data.begun == 3


def test_a_loader_that_can_make_its_batches_on_the_device_is_asked_to() -> None:
    asked: list[torch.device] = []

    class Moves(NoisyLoader):
        def to(self, device: torch.device) -> NoisyLoader:
            asked.append(device)
            return NoisyLoader()

        def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
            raise AssertionError("the loader on the device is the one to be read")

    state = learner_of(Moves()).fit(1, print_stats=False).state
    assert asked == [torch.device("cpu")]
    assert state == learner_of(NoisyLoader()).fit(1, print_stats=False).state
