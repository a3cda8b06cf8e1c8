"""Images decoded once: when, what for, and on which device."""

from __future__ import annotations

import json
import sys
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from torch import Tensor

from nntrain.data import DataLoaders, HFLoader, ImageLoader, ResidentLoader
from nntrain.data.images import hf, resident
from nntrain.data.loaders import Loader, as_loader
from nntrain.errors import ConfigError, DataError
from nntrain.values.key import Key
from tests.data.images.pictures import dataset, dataset_dict, numbered, picture, png, stored

Pair = tuple[Tensor, Tensor]


def loaders(
    dd: DatasetDict, batch_size: int = 3, memory_budget: int | None = None, num_workers: int | None = 0
) -> tuple[ImageLoader, ImageLoader]:
    dls = DataLoaders.from_hf_dd(dd, batch_size, memory_budget=memory_budget, num_workers=num_workers)
    assert isinstance(dls.train, ImageLoader)
    assert isinstance(dls.valid, ImageLoader)
    return dls.train, dls.valid


def same(ours: list[Pair], theirs: list[Pair]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(one, other) for a, b in zip(ours, theirs, strict=True) for one, other in zip(a, b, strict=True)
    )


def test_the_description_says_what_is_held() -> None:
    train, _ = loaders(dataset_dict(7, 4, "RGB"))
    said = dict(train.description)
    assert json.loads(json.dumps(said)) == said
    assert 0 < cast("float", said.pop("seconds")) < 60
    wanted = {"kind": "resident", "split": "train", "samples": 7, "shape": [3, 4, 5], "bytes": 420, "held_on": "cpu"}
    assert said == wanted


def test_it_is_a_loader_and_stays_itself_on_the_cpu() -> None:
    train, valid = loaders(dataset_dict())
    for one in (train, valid):
        assert isinstance(one, Loader)
        assert as_loader(one, "train") is one
        assert one.to(torch.device("cpu")) is one


# Both splits have 20 bytes an image: 7 of them and 4.
@pytest.mark.parametrize(
    ("budget", "train", "valid"),
    [
        (220, None, None),
        (219, None, "80 bytes over the 79 bytes that the split 'train' leaves of the memory budget of 219 bytes"),
        (140, None, "80 bytes over the 0 bytes that the split 'train' leaves of the memory budget of 140 bytes"),
        (139, "140 bytes over the memory budget of 139 bytes", None),
        (0, "140 bytes over the memory budget of 0 bytes", "80 bytes over the memory budget of 0 bytes"),
    ],
)
def test_both_splits_share_one_budget_the_train_split_first(budget: int, train: str | None, valid: str | None) -> None:
    dd = dataset_dict(7, 4)
    made = loaders(dd, memory_budget=budget)
    for one, reason in zip(made, (train, valid), strict=True):
        assert one.description.get("reason") == reason
        assert isinstance(one, ResidentLoader if reason is None else HFLoader)
    for one, other in zip(made, loaders(dd), strict=True):
        assert same(list(one), list(other))


def test_the_default_budget_is_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "free_memory", lambda: 2 * 220 + 1)
    assert [one.description["kind"] for one in loaders(dataset_dict(7, 4))] == ["resident", "resident"]
    monkeypatch.setattr(hf, "free_memory", lambda: 2 * 220 - 1)
    assert [one.description["kind"] for one in loaders(dataset_dict(7, 4))] == ["resident", "streamed"]


def test_over_the_budget_nothing_but_the_first_image_is_decoded() -> None:
    broken = stored([png(picture("L", 0)), b"no image"], [0, 0])
    with pytest.raises(DataError, match="row 1"):
        loaders(DatasetDict({"train": broken, "test": broken}))
    loaders(DatasetDict({"train": broken, "test": broken}), memory_budget=39)


@pytest.mark.parametrize("odd", [1, 600])
def test_images_of_several_sizes_are_streamed(odd: int) -> None:
    contents = [png(picture("L", 0))] * 700
    contents[odd] = png(picture("L", 0, (3, 3)))
    mixed = stored(contents, [0] * 700)
    train, valid = loaders(DatasetDict({"train": dataset(3), "test": mixed}), 1)
    assert train.description["kind"] == "resident"
    assert valid.description["reason"] == "images of several sizes"
    assert [tuple(images.shape) for images, _ in valid.batches(Key(seed=0), 0, odd - 1)][:3] == [
        (1, 20),
        (1, 9),
        (1, 20),
    ]


def test_one_channel_more_is_another_size_although_it_could_be_broadcast() -> None:
    mixed = stored([png(picture("RGB", 0)), png(picture("L", 0))], [0, 0])
    assert loaders(DatasetDict({"train": mixed, "test": mixed}))[0].description["kind"] == "streamed"


@pytest.mark.parametrize("worth", [1, 1 << 14], ids=["threads", "one thread"])
def test_of_several_broken_images_the_first_is_told(worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "WORTH_A_THREAD", worth)
    contents = [png(picture("L", row)) for row in range(900)]
    for row in (890, 700, 400, 399):
        contents[row] = b"no image"
    broken = stored(contents, [0] * 900)
    with pytest.raises(DataError, match="image of row 399, column 'image', cannot be decoded"):
        loaders(DatasetDict({"train": broken, "test": broken}))


def test_a_missing_label_is_told_before_any_training() -> None:
    unlabelled = stored([png(picture("L", 0))] * 3, [0, 1, None])
    with pytest.raises(DataError, match="label of row 2 is 'None'; expected an integer"):
        loaders(DatasetDict({"train": unlabelled, "test": unlabelled}))


def valued(labels: list[int], dtype: str) -> Dataset:
    features = datasets.Features(image=datasets.Image(), label=datasets.Value(dtype))  # type: ignore[no-untyped-call]  # datasets leaves it untyped
    column = pa.array(labels, pa.type_for_alias(dtype))
    images = pa.array([{"bytes": png(picture("L", 0)), "path": None}] * len(labels))
    return Dataset(pa.table({"image": images, "label": column}).cast(features.arrow_schema))


def test_labels_of_every_width_are_read_and_what_int64_cannot_hold_is_refused() -> None:
    for dtype in ("int8", "uint16", "int64", "uint64"):
        data = valued([0, 1, 2, 3, 4], dtype)
        train, _ = loaders(DatasetDict({"train": data, "test": data}))
        assert train.classes == 5
        assert sorted(int(label) for _, labels in train for label in labels) == [0, 1, 2, 3, 4]
    data = valued([2**63, 0], "uint64")
    with pytest.raises(DataError, match=f"label of row 0 is {2**63}; expected one that int64 holds"):
        loaders(DatasetDict({"train": data, "test": data}))


def test_classes_are_counted_either_way() -> None:
    for budget in (None, 0):
        assert loaders(dataset_dict(), memory_budget=budget)[0].classes == 3
        plain = DatasetDict({"train": numbered(8).select([6, 2]), "test": numbered(3)})
        assert loaders(plain, memory_budget=budget)[0].classes == 7


@pytest.mark.parametrize("start", [-1, 4])
def test_a_start_outside_the_epoch_is_refused_at_once(start: int) -> None:
    train, _ = loaders(dataset_dict(7, 4))
    with pytest.raises(ConfigError, match=f"batch {start} was asked for, of an epoch of 3 batches"):
        train.batches(Key(seed=0), 0, start)


def test_a_batch_is_reached_without_gathering_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = loaders(DatasetDict({"train": numbered(20), "test": numbered(3)}), 2)
    whole = list(train.batches(Key(seed=1), 4, 0))
    gathered: list[int] = []
    take = np.take

    def watched(source: Any, rows: Any, axis: int) -> Any:
        gathered.append(len(rows))
        return take(source, rows, axis)

    monkeypatch.setattr(np, "take", watched)
    rest = list(train.batches(Key(seed=1), 4, 9))
    assert same(rest, whole[9:])
    assert gathered == [2, 2]  # images and labels of one batch
    assert list(train.batches(Key(seed=1), 4, 10)) == []


def test_batches_are_their_own_and_the_images_stay_as_they_are() -> None:
    train, valid = loaders(dataset_dict(7, 4))
    for one in (train, valid):
        before = [(images.clone(), labels.clone()) for images, labels in one]
        for images, labels in one:
            images.fill_(-1)
            labels.fill_(-1)
        assert same(list(one), before)


def test_what_the_caller_has_set_is_neither_used_nor_touched() -> None:
    dd = dataset_dict(7, 4)
    wanted = list(loaders(dd)[0])
    generator = torch.get_rng_state()
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"):
            train, _ = loaders(dd)
            streamed, _ = loaders(dd, memory_budget=0)
            assert same(list(train), wanted)
            assert same(list(streamed), wanted)
        assert same(list(train), wanted)
        assert isinstance(train, ResidentLoader)
        assert not train.images.is_inference()
        with torch.no_grad():
            assert same(list(train), wanted)
            assert not torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(dtype)
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("option", ["memory_budget", "num_workers"])
@pytest.mark.parametrize("wrong", [-1, True, 1.5, "8GB"])
def test_bad_options_are_refused(option: str, wrong: object) -> None:
    given = cast("dict[str, Any]", {option: wrong})
    with pytest.raises(ConfigError, match=f"{option} is {wrong!r}; expected an integer of at least 0: .*or None"):
        DataLoaders.from_hf_dd(dataset_dict(), **given)


def test_a_bar_appears_on_stderr_only_where_decoding_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    loaders(dataset_dict(7, 4))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(resident, "BAR_AFTER", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    loaders(dataset_dict(7, 4))
    said = capsys.readouterr()
    assert said.out == ""
    assert "decoding train" in said.err
    assert "7/7" in said.err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    loaders(dataset_dict(7, 4))
    assert capsys.readouterr() == ("", "")


def test_law_batches_on_every_device_have_the_bits_of_the_cpu(device: torch.device) -> None:
    every_value = stored([png(picture("RGB", row, (16, 16))) for row in range(40)], [row % 3 for row in range(40)])
    dd = DatasetDict({"train": every_value, "test": every_value})
    for budget in (None, 0):
        for here in loaders(dd, 16, memory_budget=budget, num_workers=1):
            there = here.to(device)
            got = list(there.batches(Key(seed=2), 1, 0))
            assert {one.device.type for batch in got for one in batch} == {device.type}
            wanted = list(here.batches(Key(seed=2), 1, 0))
            assert same([(images.cpu(), labels.cpu()) for images, labels in got], wanted)
            assert same(list(there.to(torch.device("cpu"))), list(here))


@pytest.mark.parametrize("room", [True, False])
def test_nothing_waits_for_the_device(room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    free = 1 << 40 if room else 0
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    train, _ = loaders(dataset_dict(40, 4, "RGB"), 16)
    there = train.to(torch.device("cuda"))
    assert there.description["held_on"] == ("cuda:0" if room else "cpu")
    list(there)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = list(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert same([(images.cpu(), labels.cpu()) for images, labels in got], list(train))
