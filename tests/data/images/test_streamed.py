"""Images decoded each time: in whatever processes, the batches are the same."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from datasets.dataset_dict import DatasetDict
from PIL import Image
from torch import Tensor

from nntrain import Learner, accuracy
from nntrain.data import DataLoaders, HFLoader
from nntrain.data.images.streamed import prefetch_one
from nntrain.errors import DataError
from nntrain.values.key import Key
from tests.data.images.pictures import dataset, dataset_dict, numbered, picture, png, stored

Pair = tuple[Tensor, Tensor]


def same(ours: list[Pair], theirs: list[Pair]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(one, other) for a, b in zip(ours, theirs, strict=True) for one, other in zip(a, b, strict=True)
    )


def with_workers(loader: HFLoader, count: int) -> HFLoader:
    return dataclasses.replace(loader, num_workers=count)


def noisy(columns: dict[str, list[Image.Image]]) -> dict[str, list[Image.Image]]:
    """A transform that draws from all three generators."""
    images = []
    for image in columns["image"]:
        noise = torch.randint(0, 256, image.size[::-1], dtype=torch.uint8).numpy()
        noise = noise + np.random.randint(0, 9, noise.shape) + random.randrange(9)
        images.append(Image.fromarray((noise % 256).astype(np.uint8)))
    return {**columns, "image": images}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("start", [0, 2, 4])
def test_law_any_number_of_workers_gives_the_same_batches(workers: int, start: int) -> None:
    here = HFLoader(dataset(11, "RGB"), 3, "image", "label", shuffle=True)
    there = with_workers(here, workers)
    key = Key(seed=4)
    assert same(list(there.batches(key, 2, start)), list(here.batches(key, 2, 0))[start:])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_law_what_a_transform_draws_is_a_function_of_key_epoch_and_batch(workers: int) -> None:
    random_data = dataset(11).with_transform(noisy)
    key = Key(seed=4)
    whole = list(HFLoader(random_data, 3, "image", "label").batches(key, 2, 0))
    assert not torch.equal(whole[0][0], whole[1][0])
    torch.manual_seed(workers)
    random.seed(workers)
    np.random.seed(workers)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    loader = HFLoader(random_data, 3, "image", "label", num_workers=workers)
    assert same(list(loader.batches(key, 2, 0)), whole)
    assert same(list(loader.batches(key, 2, 3)), whole[3:])
    assert not same(list(loader.batches(key, 3, 0)), whole)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before[2]


def test_a_transform_streams_and_may_be_a_lambda() -> None:
    dd = dataset_dict(7, 4)
    dd["train"] = dd["train"].with_transform(lambda columns: columns)
    dls = DataLoaders.from_hf_dd(dd, 3, num_workers=1)
    assert isinstance(dls.train, HFLoader)
    wanted = {
        "kind": "streamed",
        "split": "train",
        "reason": "the dataset has a transform of its own",
        "samples": 7,
        "workers": 1,
    }
    assert dls.train.description == wanted
    assert same(list(dls.train), list(DataLoaders.from_hf_dd(dataset_dict(7, 4), 3).train))


@pytest.mark.parametrize(("processors", "workers"), [(1, 0), (2, 1), (64, 8)])
def test_one_processor_is_left_for_the_training(monkeypatch: pytest.MonkeyPatch, processors: int, workers: int) -> None:
    monkeypatch.setattr("nntrain.data.images.hf.processors", lambda: processors)
    dls = DataLoaders.from_hf_dd(dataset_dict(), memory_budget=0)
    assert isinstance(dls.train, HFLoader)
    assert dls.train.num_workers == workers


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_with_its_own_batch_and_says_no_more_than_it_should(workers: int) -> None:
    contents = [png(picture("L", row)) for row in range(6)]
    contents[4] = png(picture("L", 0, (3, 3)))
    batches = iter(HFLoader(stored(contents, [0] * 6), 3, "image", "label", num_workers=workers))
    next(batches)
    with pytest.raises(DataError, match=r"^the images have different shapes.*row 3 has \[1, 4, 5\], row 4 has"):
        next(batches)


def test_an_error_of_a_transforms_own_keeps_its_kind() -> None:
    def failing(columns: dict[str, list[object]]) -> dict[str, list[object]]:
        raise ZeroDivisionError("mine")

    for workers in (0, 1):
        loader = HFLoader(dataset(2).with_transform(failing), 2, "image", "label", num_workers=workers)
        with pytest.raises(ZeroDivisionError, match="mine"):
            list(loader)


@pytest.mark.sweep
def test_training_is_the_same_by_either_way() -> None:
    dd = DatasetDict({"train": dataset(20), "test": dataset(8)})
    states = []
    for budget, workers in ((None, 0), (0, 0), (0, 2)):
        torch.manual_seed(0)
        dls = DataLoaders.from_hf_dd(dd, 6, memory_budget=budget, num_workers=workers)
        model = torch.nn.Linear(20, 3)
        learner = Learner(model, dls, torch.nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.1)
        states.append(learner.fit(2, print_stats=False).state)
    assert states[0] == states[1] == states[2]


@pytest.mark.sweep
def test_the_order_is_that_of_the_resident_loader() -> None:
    dd = DatasetDict({"train": numbered(50), "test": numbered(5)})
    one, other = (DataLoaders.from_hf_dd(dd, 7, memory_budget=budget, num_workers=1) for budget in (None, 0))
    assert same(list(one.train), list(other.train))


def test_one_ahead_keeps_each_error_for_its_place() -> None:
    asked: list[int] = []

    def source() -> Iterator[int]:
        for number in range(3):
            asked.append(number)
            yield number
        raise ZeroDivisionError

    moved = prefetch_one(source(), lambda number: number * 10)
    assert next(moved) == 0
    assert asked == [0, 1]
    assert next(moved) == 10
    assert next(moved) == 20
    with pytest.raises(ZeroDivisionError):
        next(moved)
    assert list(prefetch_one(iter(()), str)) == []
    assert list(prefetch_one(iter([1]), str)) == ["1"]
