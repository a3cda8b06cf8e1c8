from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import assert_type, cast

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nntrain.data import DataLoaders, ImageLoader, ImageLoaders
from nntrain.errors import ConfigError, DataError
from nntrain.values.key import Key
from tests.data.images.pictures import dataset_dict

Pair = tuple[Tensor, Tensor]
PAIRS: list[Pair] = [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))]


@pytest.mark.sweep
def test_batch_type_is_inferred() -> None:
    assert_type(DataLoaders(PAIRS, PAIRS), DataLoaders[Pair])
    pairs: DataLoaders[Pair] = assert_type(DataLoaders.from_hf_dd(dataset_dict()), ImageLoaders)
    assert isinstance(pairs.train, ImageLoader)
    wider: DataLoaders[object] = DataLoaders(PAIRS, PAIRS)
    assert wider.train is PAIRS


def test_images_come_as_two_splits() -> None:
    with pytest.raises(TypeError, match="valid"):
        ImageLoaders(DataLoaders.from_hf_dd(dataset_dict()).train)  # type: ignore[call-arg] # one is missing


def test_frozen() -> None:
    dls = DataLoaders(PAIRS, PAIRS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        dls.train = []  # type: ignore[misc]  # the refusal is what is tested


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class KeyedOnly:
    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Pair]:
        return iter(PAIRS[start:])

    def __len__(self) -> int:
        return 1


class OldSequence:
    def __getitem__(self, index: int) -> Pair:
        return PAIRS[index]


@pytest.mark.parametrize(
    "source",
    [
        PAIRS,
        tuple(PAIRS),
        DataLoader(TensorDataset(torch.zeros(4, 3), torch.zeros(4)), batch_size=2),
        DataLoader(Stream(), batch_size=2),
        KeyedOnly(),
        OldSequence(),
    ],
)
def test_what_can_be_read_again_is_accepted(source: object) -> None:
    batches = cast("list[Pair]", source)
    assert DataLoaders(batches, PAIRS).train is batches
    assert DataLoaders(PAIRS, batches).valid is batches


@pytest.mark.parametrize("name", ["train", "valid"])
@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (iter(PAIRS), ConfigError, "is a list_iterator, which can be read only once.*list.*DataLoader"),
        ((pair for pair in PAIRS), ConfigError, "is a generator, which can be read only once.*list.*DataLoader"),
        (zip(PAIRS, PAIRS, strict=True), ConfigError, "is a zip, which can be read only once"),
        ([], DataError, "is a list of no batches"),
        ((), DataError, "is a tuple of no batches"),
        (
            DataLoader(TensorDataset(torch.zeros(1)), batch_size=2, drop_last=True),
            DataError,
            "is a DataLoader of no batches",
        ),
        (3, ConfigError, "is a int; expected something that gives batches"),
        ("digits", ConfigError, "is a str; expected something that gives batches"),
    ],
)
def test_what_cannot_be_read_again_is_refused(name: str, source: object, error: type[Exception], message: str) -> None:
    sources = {"train": PAIRS, "valid": PAIRS, name: cast("list[Pair]", source)}
    with pytest.raises(error, match=f"{name} {message}"):
        DataLoaders(sources["train"], sources["valid"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "train is a NoneType; expected something that gives batches"),
        ({"train": PAIRS}, "train is a dict; expected.*from_hf_dd"),
    ],
)
def test_what_is_none_or_has_names_is_not_trained_on(source: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataLoaders(cast("list[Pair]", source), PAIRS)


def test_of_no_batches_to_evaluate_it_says_how_to_train_without() -> None:
    with pytest.raises(DataError, match=r"To train without evaluation, give valid=None\.$"):
        DataLoaders(PAIRS, [])
    assert DataLoaders(PAIRS, None).valid is None


def test_a_dataloaders_workers_are_not_started_by_the_checks() -> None:
    class Watched(DataLoader[tuple[Tensor, ...]]):
        def __iter__(self) -> Iterator[tuple[Tensor, ...]]:  # type: ignore[override]  # only to see that it isn't called
            raise AssertionError("iterated")

    DataLoaders(Watched(TensorDataset(torch.zeros(4))), PAIRS)


def test_import_loads_neither_datasets_nor_torchvision() -> None:
    program = (
        "import sys\n"
        "sys.modules['datasets'] = None\n"  # any import of it fails
        "sys.modules['torchvision'] = None\n"
        "import nntrain.data\n"
        "nntrain.data.DataLoaders([1], [2])\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_batch_type_can_be_written_out() -> None:
    batches = [(torch.ones(2, 3), torch.zeros(2))]
    assert DataLoaders[tuple[Tensor, Tensor]](batches, batches).train is batches
