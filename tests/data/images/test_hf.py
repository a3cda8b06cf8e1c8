from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import cast

import datasets
import numpy as np
import pytest
import torch
from datasets.arrow_dataset import Dataset
from datasets.data_files import SPLIT_KEYWORDS
from datasets.dataset_dict import DatasetDict, IterableDatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset
from torchvision.transforms.functional import to_tensor  # type: ignore[import-untyped]  # it has no py.typed

from nntrain.data import DataLoaders, HFLoader, ResidentLoader, hf_ds_collate_fn
from nntrain.data.images.hf import TEST_NAMES, TRAIN_NAMES, VALID_NAMES, find_columns, find_splits
from nntrain.errors import ConfigError, DataError, NNTrainError
from nntrain.values.key import Key
from tests.data.images.pictures import MODES, dataset, dataset_dict, numbered, picture, png, stored

Pair = tuple[Tensor, Tensor]


def loader(rows: int, batch_size: int, *, shuffle: bool = True) -> HFLoader:
    return HFLoader(numbered(rows), batch_size, "image", "label", shuffle=shuffle)


def rows_of(batches: Sequence[Pair]) -> list[int]:
    return [int(label) for _, labels in batches for label in labels]


# The reference path.


@pytest.mark.parametrize("mode", MODES)
def test_reference_is_to_tensor_sample_by_sample(mode: str) -> None:
    images = [picture(mode, seed) for seed in range(3)]
    got, labels = hf_ds_collate_fn(
        [{"image": image, "label": 2 - row} for row, image in enumerate(images)], flatten=False
    )
    wanted = torch.stack([to_tensor(image.convert("RGB") if mode == "P" else image) for image in images])
    assert torch.equal(got, wanted)
    assert got.dtype == torch.float32
    assert got.min() >= 0
    assert got.max() <= 1
    assert labels.tolist() == [2, 1, 0]
    assert labels.dtype == torch.int64


def test_flattened_is_the_same_numbers_in_the_order_channel_row_column() -> None:
    examples = [{"image": picture("RGB", seed), "label": 0} for seed in range(2)]
    flat, _ = hf_ds_collate_fn(examples)
    kept, _ = hf_ds_collate_fn(examples, flatten=False)
    assert kept.shape == (2, 3, 4, 5)
    assert flat.shape == (2, 60)
    assert torch.equal(flat, kept.flatten(1))


def test_reference_takes_other_column_names() -> None:
    collate = functools.partial(hf_ds_collate_fn, image="img", label="digit")
    images, labels = collate([{"img": picture("L", 0), "digit": np.int64(5)}])
    assert images.shape == (1, 20)
    assert labels.tolist() == [5]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no examples"),
        ({"image": [picture("L", 0)], "label": [0]}, "mapping of columns .'image', 'label'.*list of examples"),
        ([{"img": picture("L", 0), "label": 0}], "no column 'image'.*'img', 'label'.*functools.partial"),
        ([{"image": None, "label": 0}], "example 0 of the batch is a NoneType"),
        ([{"image": picture("L", 0), "label": None}], "label of example 0 of the batch is 'None'"),
        ([{"image": picture("L", 0), "label": 1.5}], "label of example 0 of the batch is '1.5'"),
        ([{"image": Image.new("I;16", (2, 2)), "label": 0}], "mode 'I;16'.*8 bits"),
        ([{"image": Image.new("F", (2, 2)), "label": 0}], "mode 'F'.*8 bits"),
        (
            [{"image": picture("L", 0), "label": 0}, {"image": picture("RGB", 0), "label": 0}],
            r"different shapes.*\[1, 4, 5\].*example 1 of the batch has \[3, 4, 5\].*mode='RGB'",
        ),
    ],
)
def test_reference_errors(examples: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hf_ds_collate_fn(cast("list[dict[str, object]]", examples))


# The loader gives the bits of the reference.


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_loader_has_the_bits_of_a_torch_dataloader_with_the_reference(mode: str, flatten: bool) -> None:
    data = dataset(7, mode)
    reference: list[Pair] = list(
        DataLoader(
            cast("MapDataset[object]", data),
            batch_size=3,
            collate_fn=functools.partial(hf_ds_collate_fn, flatten=flatten),
        )
    )
    got = list(HFLoader(data, 3, "image", "label", flatten=flatten))
    assert len(got) == len(reference) == 3
    for (ours, our_labels), (theirs, their_labels) in zip(got, reference, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert ours.is_contiguous()
        assert torch.equal(our_labels, their_labels)
        assert our_labels.dtype == their_labels.dtype


def test_every_grey_value_is_divided_to_the_same_bits() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    data = stored([png(image)], [0])
    ((ours, _),) = list(HFLoader(data, 1, "image", "label"))
    assert torch.equal(ours, to_tensor(image).flatten().unsqueeze(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bits_do_not_depend_on_the_default_dtype(dtype: torch.dtype) -> None:
    examples = [{"image": Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)), "label": 0}]
    wanted, _ = hf_ds_collate_fn(examples)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        got, _ = hf_ds_collate_fn(examples)
    finally:
        torch.set_default_dtype(before)
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)


def test_batches_are_independent_tensors() -> None:
    data = HFLoader(dataset(4), 2, "image", "label")
    first, _ = next(iter(data))
    kept = first.clone()
    first.zero_()
    again, _ = next(iter(data))
    assert torch.equal(again, kept)


# Law: the order is a function of (key, epoch).


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 10_000),
    noise=st.integers(0, 2**31),
)
def test_law_order_is_a_function_of_key_and_epoch(
    rows: int, batch_size: int, seed: int, epoch: int, noise: int
) -> None:
    key = Key(seed=seed)
    one, other = loader(rows, batch_size), loader(rows, batch_size)
    first = rows_of(list(one.batches(key, epoch, 0)))
    torch.manual_seed(noise)
    np.random.seed(noise)
    list(other.batches(key, epoch + 1, 0))
    assert rows_of(list(other.batches(key, epoch, 0))) == first
    assert sorted(first) == list(range(rows))


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 30), batch_size=st.integers(1, 12), shuffle=st.booleans(), data=st.data())
def test_law_starting_at_a_batch_is_skipping_those_before(
    rows: int, batch_size: int, shuffle: bool, data: st.DataObject
) -> None:
    one = loader(rows, batch_size, shuffle=shuffle)
    start = data.draw(st.integers(0, len(one)))
    key = Key(seed=3)
    whole, rest = list(one.batches(key, 2, 0)), list(one.batches(key, 2, start))
    assert len(whole) == len(one)
    assert len(rest) == len(one) - start
    assert rows_of(rest) == rows_of(whole[start:])
    assert all(len(labels) == batch_size for _, labels in whole[:-1])
    assert len(whole[-1][1]) == rows - batch_size * (len(one) - 1)


def test_law_global_generators_are_untouched() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    dls = DataLoaders.from_hf_dd(dataset_dict(), 2)
    for source in (dls.train, dls.valid):
        assert list(source)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state(legacy=False)["state"]["key"] == before[1]).all()


def test_epochs_seeds_and_folds_are_shuffled_differently() -> None:
    one = loader(40, 8)
    orders = {
        tuple(rows_of(list(one.batches(key, epoch, 0))))
        for key in (Key(seed=0), Key(seed=1), Key(seed=0).fold_in(1))
        for epoch in range(4)
    }
    assert len(orders) == 12


def test_plain_iteration_is_epoch_0_of_seed_0_every_time() -> None:
    one = loader(20, 6)
    wanted = rows_of(list(one.batches(Key(seed=0), 0, 0)))
    assert rows_of(list(one)) == wanted
    assert rows_of(list(one)) == wanted


def test_batch_k_is_read_without_the_k_before_it() -> None:
    broken = stored([b"no image", png(picture("L", 0)), png(picture("L", 1))], [0, 1, 2])
    one = HFLoader(broken, 1, "image", "label")
    assert rows_of(list(one.batches(Key(seed=0), 0, 1))) == [1, 2]


@pytest.mark.parametrize("start", [-1, 4])
def test_a_start_outside_the_epoch_is_refused_at_once(start: int) -> None:
    with pytest.raises(ConfigError, match=f"batch {start} was asked for, of an epoch of 3 batches"):
        loader(6, 2).batches(Key(seed=0), 0, start)


# from_hf_dd.


def test_train_is_shuffled_and_valid_never_is() -> None:
    dd = DatasetDict({"train": numbered(40), "test": numbered(30)})
    dls = DataLoaders.from_hf_dd(dd, batch_size=16)
    assert isinstance(dls.train, ResidentLoader)
    assert isinstance(dls.valid, ResidentLoader)
    assert len(dls.train) == 3
    assert len(dls.valid) == 2
    key = Key(seed=5)
    assert rows_of(list(dls.train.batches(key, 0, 0))) != list(range(40))
    assert rows_of(list(dls.valid.batches(key, 3, 0))) == list(range(30))
    unshuffled = DataLoaders.from_hf_dd(dd, batch_size=16, shuffle=False)
    assert rows_of(list(unshuffled.train)) == list(range(40))


def test_flatten_is_an_option() -> None:
    images, labels = next(iter(DataLoaders.from_hf_dd(dataset_dict(mode="RGB"), 4).train))
    assert images.shape == (4, 60)
    assert labels.shape == (4,)
    images, _ = next(iter(DataLoaders.from_hf_dd(dataset_dict(mode="RGB"), 4, flatten=False).valid))
    assert images.shape == (4, 3, 4, 5)


def test_selected_rows_of_a_dataset_are_read() -> None:
    dd = DatasetDict({"train": numbered(9).select([8, 2, 5]), "test": numbered(4).filter(lambda e: e["label"] > 1)})
    dls = DataLoaders.from_hf_dd(dd, shuffle=False)
    assert rows_of(list(dls.train)) == [8, 2, 5]
    assert rows_of(list(dls.valid)) == [2, 3]


def test_a_format_is_left_aside_and_undecoded_images_are_decoded() -> None:
    dd = dataset_dict()
    wanted = list(DataLoaders.from_hf_dd(dd, shuffle=False).train)
    for other in (
        dd.with_format("torch"),
        dd.with_format("numpy", columns=["label"]),
        dd.cast_column("image", datasets.Image(decode=False)),
    ):
        got = list(DataLoaders.from_hf_dd(other, shuffle=False).train)
        assert torch.equal(got[0][0], wanted[0][0])
        assert torch.equal(got[0][1], wanted[0][1])


def test_a_transform_of_the_dataset_is_kept() -> None:
    def invert(columns: dict[str, list[Image.Image]]) -> dict[str, list[Image.Image]]:
        return {**columns, "image": [image.point(lambda v: 255 - v) for image in columns["image"]]}

    dd = dataset_dict()
    plain = next(iter(DataLoaders.from_hf_dd(dd).valid))[0]
    inverted = next(iter(DataLoaders.from_hf_dd(dd.with_transform(invert)).valid))[0]
    assert torch.allclose(inverted, 1 - plain)
    lost = DataLoaders.from_hf_dd(dd.with_transform(lambda columns: {"label": columns["label"]}))
    with pytest.raises(DataError, match=r"transform left no column 'image', only 'label'.*collate_fn"):
        next(iter(lost.valid))
    renaming = dd.with_transform(lambda columns: {"pixel_values": columns["image"], "label": columns["label"]})
    with pytest.raises(ConfigError, match=r"image='pixel_values'.*no such column.*collate_fn"):
        DataLoaders.from_hf_dd(renaming, image="pixel_values")
    made = DataLoaders.from_hf_dd(dd.with_transform(lambda columns: {**columns, "image": [torch.ones(1, 4, 5)] * 4}))
    with pytest.raises(DataError, match=r"(?s)image of row 0 is a Tensor.*expected a PIL image.*collate_fn"):
        next(iter(made.valid))


def test_an_image_feature_with_a_mode_is_obeyed() -> None:
    dd = dataset_dict(mode="P").cast_column("image", datasets.Image(mode="L"))
    assert next(iter(DataLoaders.from_hf_dd(dd).valid))[0].shape == (4, 20)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train", "test"], ("train", "test")),
        (["test", "validation", "train"], ("train", "validation")),
        (["train", "test", "valid"], ("train", "valid")),
        (["train", "test", "val"], ("train", "val")),
        (["train", "held_out"], ("train", "held_out")),
        (["train", "dev", "test"], ("train", "dev")),
        (["test", "val", "dev", "train"], ("train", "dev")),
        (["train", "eval", "test"], ("train", "eval")),
        (["train", "evaluation", "testing"], ("train", "evaluation")),
        (["training", "testing"], ("training", "testing")),
        (
            ["train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"],
            ("train", "validation_matched"),
        ),
        (["test", "train", "dev.clean"], ("train", "dev.clean")),
        (["train_sft", "test_sft"], ("train_sft", "test_sft")),
        (["train", "train_val", "test"], ("train", "test")),
        (["train", "query", "gallery", "test"], ("train", "test")),
        (["train", "devices", "test"], ("train", "test")),
    ],
)
def test_splits_are_found(names: list[str], found: tuple[str, str]) -> None:
    assert find_splits(names) == found


def test_the_names_are_those_that_datasets_finds_files_by() -> None:
    known = {str(split): set(words) for split, words in SPLIT_KEYWORDS.items()}
    assert known == {"train": set(TRAIN_NAMES), "validation": set(VALID_NAMES), "test": set(TEST_NAMES)}


@given(valid=st.sampled_from(["validation", "valid", "dev", "val"]), word=st.sampled_from(["", "_2", "-clean", ".b c"]))
def test_a_validation_split_is_found_beside_a_test_split_whatever_the_order(valid: str, word: str) -> None:
    for names in permutations(["train", valid + word, "test"]):
        assert find_splits(names) == ("train", valid + word)


@pytest.mark.parametrize("budget", [None, 0])
def test_a_loader_says_which_split_it_reads(budget: int | None) -> None:
    dd = DatasetDict({"train": dataset(4), "dev": dataset(3), "test": dataset(2)})
    dls = DataLoaders.from_hf_dd(dd, memory_budget=budget)
    assert (dls.train.description["split"], dls.valid.description["split"]) == ("train", "dev")


def labelled(labels: Sequence[int], feature: object) -> Dataset:
    features = datasets.Features(image=datasets.Image(), label=feature)  # type: ignore[no-untyped-call]  # datasets leaves it untyped
    columns = {"image": [{"bytes": png(picture("L", 0)), "path": None}] * len(labels), "label": labels}
    return Dataset.from_dict(columns, features=features)


NAMED, PLAIN = datasets.ClassLabel(names=["a", "b", "c"]), datasets.Value("int64")


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize(
    ("feature", "train", "test", "message"),
    [
        (
            NAMED,
            [0, 1, 2],
            [-1, -1],
            r"2 of the 2 labels of the split 'test', column 'label', .*-1; expected 0 to 2.*valid=",
        ),
        (PLAIN, [0, 1, 2], [-1, -1], r"row 0 with -1; expected 0 to 2, .*that the split 'train' has.*hides its labels"),
        (PLAIN, [0, 1, 2], [-100, -100], r"row 0 with -100; expected 0 to 2.*hides its labels.*train_test_split"),
        (PLAIN, [0, 1, 2], [0, 5], r"1 of the 2 labels of the split 'test'.*row 1 with 5; expected 0 to 2.*filter"),
        (NAMED, [0, 1, -1], [0], r"1 of the 3 labels of the split 'train'.*row 2 with -1; expected 0 to 2.*filter"),
        (PLAIN, [-100, -100], [0], r"2 of the 2 labels of the split 'train'.*expected 0 or more"),
        (PLAIN, [-1, 1], [1], r"1 of the 2 labels of the split 'train'.*expected 0 to 1.*hf_ds_collate_fn"),
    ],
)
def test_labels_that_are_no_classes_are_told_before_any_training(
    feature: object, train: list[int], test: list[int], message: str, budget: int | None
) -> None:
    dd = DatasetDict({"train": labelled(train, feature), "test": labelled(test, feature)})
    with pytest.raises(DataError, match=message):
        DataLoaders.from_hf_dd(dd, memory_budget=budget)


def test_hidden_labels_are_told_under_a_transform_too_and_its_own_labels_are_left_to_it() -> None:
    hidden = DatasetDict({"train": labelled([0, 1], NAMED), "test": labelled([-1, -1], NAMED)})
    with pytest.raises(DataError, match=r"'test'.*row 0 with -1"):
        DataLoaders.from_hf_dd(hidden.with_transform(lambda columns: columns))

    def shifted(columns: dict[str, list[int]]) -> dict[str, list[int]]:
        return {**columns, "label": [(label + 1) // 2 for label in columns["label"]]}

    signs = DatasetDict({"train": labelled([-1, 1], PLAIN), "test": labelled([1], PLAIN)}).with_transform(shifted)
    assert next(iter(DataLoaders.from_hf_dd(signs, num_workers=0, shuffle=False).train))[1].tolist() == [0, 1]


@settings(max_examples=30)
@given(classes=st.integers(1, 5), data=st.data())
def test_labels_are_accepted_just_where_each_is_a_class(classes: int, data: st.DataObject) -> None:
    train = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=4))
    test = data.draw(st.lists(st.integers(-2, 6), min_size=1, max_size=4))
    dd = DatasetDict({"train": labelled(train, PLAIN), "test": labelled(test, PLAIN)})
    wrong = [row for row, label in enumerate(test) if not 0 <= label <= max(train)]
    if wrong:
        with pytest.raises(DataError, match=f"{len(wrong)} of the {len(test)} labels.*row {wrong[0]} with"):
            DataLoaders.from_hf_dd(dd)
    else:
        DataLoaders.from_hf_dd(dd)


def test_splits_can_be_named() -> None:
    assert find_splits(["train", "test", "extra"], valid="extra") == ("train", "extra")
    assert find_splits(["a", "b", "c"], train="c", valid="a") == ("c", "a")
    assert find_splits(["train", "test"], train="test", valid="train") == ("test", "train")
    assert find_splits(["train", "test"], train="train", valid="train") == ("train", "train")
    dls = DataLoaders.from_hf_dd(dataset_dict(7, 4), train="test", valid="train", batch_size=1)
    assert isinstance(dls.train, ResidentLoader)
    assert isinstance(dls.valid, ResidentLoader)
    assert (len(dls.train), len(dls.valid)) == (4, 7)


@pytest.mark.parametrize(
    ("names", "train", "valid", "message"),
    [
        (["test"], None, None, "no split named 'train'; the splits are 'test'.*train="),
        ([], None, None, "no split named 'train'; the splits are none"),
        (["train"], None, None, "no valid split found; the splits are 'train'.*train_test_split"),
        (["train_sft", "train_gen", "test"], None, None, "several like it: 'train_sft', 'train_gen'.*train="),
        (["train", "a", "b"], None, None, "no valid split found.*'train', 'a', 'b'.*'validation', 'valid'.*valid="),
        (["train", "test"], "fit", None, "train='fit': there is no such split; the splits are 'train', 'test'"),
        (["train", "test"], None, "train", "valid='train' is the split that is learned from.*train="),
        (["train", "test"], None, "dev", "valid='dev': there is no such split; the splits are 'train', 'test'"),
    ],
)
def test_split_errors(names: list[str], train: str | None, valid: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_splits(names, train=train, valid=valid)


IMAGE, CLASS, INTEGER = datasets.Image(), datasets.ClassLabel(names=["no", "yes"]), datasets.Value("int16")


@pytest.mark.parametrize(
    ("features", "found"),
    [
        ({"image": IMAGE, "label": CLASS}, ("image", "label")),
        ({"digit": CLASS, "img": IMAGE, "id": datasets.Value("string")}, ("img", "digit")),
        ({"img": IMAGE, "digit": INTEGER, "name": datasets.Value("string")}, ("img", "digit")),
        ({"img": IMAGE, "fine": CLASS, "row": INTEGER}, ("img", "fine")),
        ({"img": IMAGE, "y": datasets.Value("uint8"), "weight": datasets.Value("float32")}, ("img", "y")),
    ],
)
def test_columns_are_found_by_type(features: dict[str, object], found: tuple[str, str]) -> None:
    assert find_columns(features, "train") == found


def test_columns_can_be_named() -> None:
    features = {"a": IMAGE, "b": IMAGE, "fine": CLASS, "coarse": CLASS, "row": INTEGER}
    assert find_columns(features, "train", image="b", label="coarse") == ("b", "coarse")
    assert find_columns(features, "train", image="a", label="row") == ("a", "row")


@pytest.mark.parametrize(
    ("features", "names", "message"),
    [
        ({"label": CLASS}, {}, "no image column in the split 'train'.*'label': ClassLabel.*cast_column"),
        ({"image": IMAGE}, {}, "no label column in the split 'train'.*'image': Image"),
        ({"image": IMAGE, "y": datasets.Value("float32")}, {}, "no label column.*'y': Value"),
        (
            {"a": IMAGE, "b": IMAGE, "y": CLASS},
            {},
            "2 columns of the split 'train' could be the image: 'a', 'b'.*image='a'",
        ),
        ({"a": IMAGE, "x": CLASS, "y": CLASS}, {}, "2 columns of the split 'train' could be the label: 'x', 'y'"),
        ({"a": IMAGE, "x": INTEGER, "y": INTEGER}, {}, "2 columns of the split 'train' could be the label: 'x', 'y'"),
        ({"a": IMAGE, "y": CLASS}, {"image": "b"}, "image='b': the split 'train' has no such column.*'a': Image"),
        ({"a": IMAGE, "y": CLASS}, {"image": "y"}, "image='y': .*that is a datasets.Image"),
        ({"a": IMAGE, "y": CLASS}, {"label": "a"}, "label='a': .*that is a datasets.ClassLabel or an integer Value"),
    ],
)
def test_column_errors(features: dict[str, object], names: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_columns(features, "train", image=names.get("image"), label=names.get("label"))


@pytest.mark.parametrize(
    ("given_as", "message"),
    [
        (lambda: dataset(3), "was given a Dataset; expected a datasets.DatasetDict.*train_test_split"),
        (lambda: {"train": dataset(3), "test": dataset(3)}, "was given a dict;.*datasets.DatasetDict"),
        (lambda: dataset(3).to_iterable_dataset(), "was given a IterableDataset;.*streaming"),
        (lambda: IterableDatasetDict(), "was given a IterableDatasetDict;.*streaming"),
        (lambda: "mnist", "was given a str;.*load_dataset"),
        (lambda: None, "was given a NoneType;"),
    ],
)
def test_not_a_dataset_dict(given_as: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        DataLoaders.from_hf_dd(cast("DatasetDict", given_as()))
    assert isinstance(raised.value, NNTrainError)


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.0, "8", None])
def test_bad_batch_size(batch_size: object) -> None:
    with pytest.raises(ConfigError, match=f"batch_size is {batch_size!r}; expected an integer of at least 1"):
        DataLoaders.from_hf_dd(dataset_dict(), cast("int", batch_size))


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_split(split: str) -> None:
    dd = dataset_dict()
    dd[split] = dd[split].select([])
    with pytest.raises(DataError, match=f"the split '{split}' is empty"):
        DataLoaders.from_hf_dd(dd)


def test_splits_whose_labels_mean_different_classes() -> None:
    dd = dataset_dict()
    dd["test"] = dd["test"].cast_column("label", datasets.ClassLabel(names=["x", "y", "z"]))
    with pytest.raises(DataError, match=r"different classes.*'train' \['0', '1', '2'\].*'test' \['x', 'y', 'z'\]"):
        DataLoaders.from_hf_dd(dd)


def test_a_broken_image_is_named_by_its_row() -> None:
    content = [png(picture("L", row)) for row in range(6)]
    content[4] = content[4][:40]
    dd = DatasetDict({"train": dataset(2), "test": stored(content, [0] * 6)})
    with pytest.raises(DataError, match="image of row 4, column 'image', cannot be decoded"):
        DataLoaders.from_hf_dd(dd, 3)
    batches = iter(DataLoaders.from_hf_dd(dd, 3, memory_budget=0).valid)
    next(batches)
    with pytest.raises(DataError, match="image of row 4, column 'image', cannot be decoded"):
        next(batches)


class OddError(Exception):
    """What no plugin of PIL's is known to raise."""


@pytest.mark.sweep
@pytest.mark.parametrize(
    "error", [OddError, struct.error, KeyError, IndexError, AssertionError, RuntimeError, MemoryError]
)
@pytest.mark.parametrize("way", ["resident", "streamed", "transformed"])
def test_whatever_pil_raises_names_the_row(error: type[Exception], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = [png(picture("L", row)) for row in range(4)]
    buffer = io.BytesIO()
    picture("L", 0).save(buffer, "GIF")
    content[2] = buffer.getvalue()

    def failing(opened: Image.Image) -> None:
        raise error("odd")

    monkeypatch.setattr(GifImageFile, "load_prepare", failing)
    dd = DatasetDict({"train": dataset(2), "test": stored(content, [0] * 4)})
    if way == "transformed":
        dd = dd.with_transform(lambda columns: columns)
    with pytest.raises(DataError, match=f"image of row 2, column 'image', cannot be decoded: {error.__name__}"):
        list(DataLoaders.from_hf_dd(dd, 4, memory_budget=None if way == "resident" else 0, num_workers=0).valid)


@pytest.mark.parametrize("transformed", [False, True])
def test_a_decompression_bomb_names_the_row(transformed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    data = stored([png(picture("P", 0)), png(picture("P", 1, (20, 10)))], [0, 0])
    dd = DatasetDict({"train": data, "test": data})
    with pytest.raises(DataError, match="row 1, column 'image', cannot be decoded: DecompressionBombError"):
        list(DataLoaders.from_hf_dd(dd.with_transform(lambda c: c) if transformed else dd, num_workers=0).valid)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_transform_names_the_row(workers: int) -> None:
    def picky(columns: dict[str, list[object]]) -> dict[str, list[object]]:
        if 2 in columns["label"]:
            raise ZeroDivisionError("mine")
        return columns

    def shy(columns: dict[str, list[object]]) -> dict[str, list[object]]:
        if len(columns["label"]) > 1:
            raise ZeroDivisionError("mine")
        return columns

    for transform, said in ((picky, "raised this for row 2"), (shy, "raised this for the rows 0, 1, 2 together")):
        loader = HFLoader(dataset(3).with_transform(transform), 3, "image", "label", num_workers=workers)
        with pytest.raises(ZeroDivisionError) as raised:
            list(loader)
        assert said in str(raised.value) + "".join(getattr(raised.value, "__notes__", ()))


@pytest.mark.sweep
def test_images_of_different_shapes_and_missing_labels_are_named_by_their_row() -> None:
    odd = stored([png(picture("L", 0)), png(picture("L", 0, (3, 3)))], [0, 0])
    with pytest.raises(DataError, match=r"row 0 has \[1, 4, 5\], row 1 has \[1, 3, 3\]"):
        list(HFLoader(odd, 2, "image", "label"))
    unlabelled = stored([png(picture("L", 0))] * 2, [0, None])
    with pytest.raises(DataError, match="label of row 1 is 'None'"):
        list(HFLoader(unlabelled, 2, "image", "label"))
