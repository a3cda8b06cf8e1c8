"""Images from a Hugging Face `DatasetDict`: finds the splits and columns, and chooses the loaders.

Three ways lead to the same bits. `hf_ds_collate_fn` is the reference, for use with a torch `DataLoader`.
`DataLoaders.from_hf_dd` decodes each image once where all fit into memory (`ResidentLoader`), otherwise each time that
it is read (`HFLoader`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from nntrain.data.images.memory import format_bytes, free_memory
from nntrain.data.images.reference import hf_ds_collate_fn, quoted
from nntrain.data.images.resident import ResidentLoader, decode, processors
from nntrain.data.images.split import OTHER_COLUMNS, Split
from nntrain.data.images.streamed import HFLoader
from nntrain.errors import ConfigError, DataError
from nntrain.values.numbers import is_count

if TYPE_CHECKING:
    from datasets.arrow_dataset import Dataset
    from datasets.dataset_dict import DatasetDict

__all__ = ["VALID_NAMES", "HFLoader", "ResidentLoader", "find_columns", "find_splits", "hf_ds_collate_fn", "hf_loaders"]

TRAIN_NAMES: Final = ("train", "training")
VALID_NAMES: Final = ("validation", "valid", "dev", "val")
TEST_NAMES: Final = ("eval", "evaluation", "test", "testing")
"""The names by which the splits are found, the preferred one first: those that `datasets` finds files by."""

MAX_WORKERS: Final = 8
"""More processes are started only on request: each has its own batches in memory."""


def hf_loaders(
    dd: DatasetDict,
    batch_size: int,
    *,
    train: str | None,
    valid: str | None,
    image: str | None,
    label: str | None,
    flatten: bool,
    shuffle: bool,
    memory_budget: int | None,
    num_workers: int | None,
) -> tuple[ResidentLoader | HFLoader, ResidentLoader | HFLoader]:
    """Check the arguments, and return the loaders of the two splits; see `DataLoaders.from_hf_dd`."""
    _check_dataset_dict(dd)
    if not is_count(batch_size, 1):
        raise ConfigError(f"batch_size is {batch_size!r}; expected an integer of at least 1.")
    _check_count("memory_budget", memory_budget, "bytes, or None for half of the free memory")
    _check_count("num_workers", num_workers, "processes, or None for one fewer than there are processors")
    train_name, valid_name = find_splits([str(name) for name in dd], train=train, valid=valid)
    splits = []
    for name in (train_name, valid_name):
        dataset = dd[name]
        if len(dataset) == 0:
            raise DataError(f"the split {name!r} is empty; expected at least one example.")
        try:
            image_name, label_name = find_columns(dataset.features, name, image=image, label=label)
        except ConfigError as error:
            if dataset.format["type"] != "custom":
                raise
            raise ConfigError(f"{error} {OTHER_COLUMNS}") from error
        splits.append(Split(_select_columns(dataset, image_name, label_name), image_name, label_name))
    _check_same_classes(splits[0], splits[1], train_name, valid_name)
    _check_labels(splits[0], splits[1], train_name, valid_name)
    budget = free_memory() // 2 if memory_budget is None else memory_budget
    workers = min(processors() - 1, MAX_WORKERS) if num_workers is None else num_workers
    allowed = f"the memory budget of {format_bytes(budget)}"
    left = budget
    loaders: list[ResidentLoader | HFLoader] = []
    for split, name, shuffled in ((splits[0], train_name, shuffle), (splits[1], valid_name, False)):
        made = _loader(split, name, batch_size, left, allowed, flatten=flatten, shuffle=shuffled, workers=workers)
        loaders.append(made)
        if isinstance(made, ResidentLoader):
            left -= made.images.nbytes
            allowed = f"the {format_bytes(left)} that the split {name!r} leaves of {allowed}"
    return loaders[0], loaders[1]


def _loader(
    split: Split, name: str, batch_size: int, budget: int, allowed: str, *, flatten: bool, shuffle: bool, workers: int
) -> ResidentLoader | HFLoader:
    found = decode(split, budget, allowed, name)
    if isinstance(found, str):
        return HFLoader(
            split.dataset,
            batch_size,
            split.image,
            split.label,
            flatten=flatten,
            shuffle=shuffle,
            num_workers=workers,
            reason=found,
            split_name=name,
        )
    (images, seconds), names = found, split.class_names
    return ResidentLoader(
        images,
        split.labels(),
        batch_size,
        flatten=flatten,
        shuffle=shuffle,
        known_classes=None if names is None else len(names),
        seconds=seconds,
        split_name=name,
    )


def find_splits(names: Sequence[str], *, train: str | None = None, valid: str | None = None) -> tuple[str, str]:
    """Return the names of the train and the valid split.

    Raises:
        ConfigError: there is no such split, or it is not clear which is meant.

    >>> find_splits(["train", "test"])
    ('train', 'test')
    >>> find_splits(["train", "validation_matched", "validation_mismatched", "test_matched"])
    ('train', 'validation_matched')
    >>> find_splits(["a", "b"], train="b")
    ('b', 'a')
    """
    for argument, wanted in (("train", train), ("valid", valid)):
        if wanted is not None and wanted not in names:
            raise ConfigError(f"{argument}={wanted!r}: there is no such split; the splits are {quoted(names)}.")
    if train is None:
        found = _named(TRAIN_NAMES, names)
        if found and found[0] == valid:
            raise ConfigError(
                f"valid={valid!r} is the split that is learned from, unless another is named. Name it too: train=...."
            )
        if not found:
            raise ConfigError(f"no split named 'train'; the splits are {quoted(names)}. Name one: train=....")
        if found[0] not in TRAIN_NAMES and len(found) > 1:
            raise ConfigError(f"no split named 'train', and several like it: {quoted(found)}. Name one: train=....")
        train = found[0]
    if valid is None:
        others = [name for name in names if name != train]
        usable = [name for name in others if not _named(TRAIN_NAMES, [name])]
        found = _named(VALID_NAMES, usable) or _named(TEST_NAMES, usable) or (others if len(others) == 1 else [])
        if not found:
            raise ConfigError(
                f"no valid split found; the splits are {quoted(names)}, of which {train!r} is the train "
                f"split; looked for was {quoted(VALID_NAMES + TEST_NAMES)} or a single other one. Name one: valid=...; "
                f"or make one: dd[{train!r}].train_test_split(test_size=0.1)."
            )
        valid = found[0]
    return train, valid


def _named(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names that are, or else that have as a word, the first of the wanted ones that there is."""
    for matches in (str.__eq__, _has_word):
        for one in wanted:
            found = [name for name in names if matches(name, one)]
            if found:
                return found
    return []


def _has_word(name: str, word: str) -> bool:
    return word in re.split(r"[-._ 0-9]+", name)  # as datasets separates them


def find_columns(
    features: Mapping[str, object], split: str, *, image: str | None = None, label: str | None = None
) -> tuple[str, str]:
    """Return the image and the label column of a split, found by the types of its features.

    Raises:
        ConfigError: a column is missing, of the wrong kind, or more than one could be meant.
    """
    from datasets.features.features import ClassLabel, Value
    from datasets.features.image import Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    values = [(name, feature) for name, feature in features.items() if isinstance(feature, Value)]
    integers = [name for name, value in values if value.dtype.startswith(("int", "uint"))]
    listing = ", ".join(f"{name!r}: {feature}" for name, feature in features.items()) or "none"
    pick = partial(_pick, split=split, listing=listing)
    either = "a datasets.ClassLabel or an integer Value"
    return (
        pick("image", image, candidates=images, allowed=images, kind="a datasets.Image"),
        pick("label", label, candidates=classes or integers, allowed=[*classes, *integers], kind=either),
    )


def _pick(
    argument: str,
    wanted: str | None,
    *,
    candidates: Sequence[str],
    allowed: Sequence[str],
    kind: str,
    split: str,
    listing: str,
) -> str:
    if wanted is not None:
        if wanted not in allowed:
            raise ConfigError(
                f"{argument}={wanted!r}: the split {split!r} has no such column that is {kind}. "
                f"Its columns are {listing}."
            )
        return wanted
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise ConfigError(
            f"no {argument} column in the split {split!r}: none is {kind}. Its columns are {listing}. "
            "Cast one with dd.cast_column(name, feature)."
        )
    raise ConfigError(
        f"{len(candidates)} columns of the split {split!r} could be the {argument}: {quoted(candidates)}. "
        f"Name the one meant: {argument}={candidates[0]!r}. Its columns are {listing}."
    )


def _check_count(option: str, given: object, kind: str) -> None:
    if given is not None and not is_count(given, 0):
        raise ConfigError(f"{option} is {given!r}; expected an integer of at least 0: {kind}.")


def _check_dataset_dict(dd: object) -> None:
    from datasets.arrow_dataset import Dataset
    from datasets.dataset_dict import DatasetDict, IterableDatasetDict
    from datasets.iterable_dataset import IterableDataset

    if isinstance(dd, DatasetDict):
        return
    given = f"from_hf_dd was given a {type(dd).__name__}; expected a datasets.DatasetDict"
    if isinstance(dd, Dataset):
        raise ConfigError(f"{given}. Split it: dataset.train_test_split(test_size=0.1) gives one.")
    if isinstance(dd, (IterableDatasetDict, IterableDataset)):
        raise ConfigError(f"{given}, whose examples cannot be read in any order. Load it without streaming=True.")
    if isinstance(dd, Mapping):
        raise ConfigError(f"{given}. Make one: datasets.DatasetDict(train=..., test=...).")
    raise ConfigError(f"{given}, as datasets.load_dataset and load_from_disk give.")


def _check_same_classes(train: Split, valid: Split, train_name: str, valid_name: str) -> None:
    ours, theirs = train.class_names, valid.class_names
    if ours is not None and theirs is not None and ours != theirs:
        raise DataError(
            f"the labels mean different classes: in the split {train_name!r} {ours}, in {valid_name!r} "
            f"{theirs}. Cast both to one ClassLabel with dd.cast_column(name, feature)."
        )


def _check_labels(train: Split, valid: Split, train_name: str, valid_name: str) -> None:
    """Raise a `DataError` for stored labels that are no class to learn; those of a transform are not known yet."""
    for split, name in ((train, train_name), (valid, valid_name)):
        named = split.class_names
        if named is None and (split.transformed or train.transformed):
            continue
        labels = split.labels()
        known = len(named) if named is not None else int(train.labels().max()) + 1
        wrong = ((labels < 0) | (labels >= known)).nonzero().flatten()
        if not len(wrong):
            continue
        row = int(wrong[0])
        value = int(labels[row])
        all_hidden = len(wrong) == len(labels) and value < 0
        expected = f"0 to {known - 1}" if known > 0 else "0 or more"
        source = "of the ClassLabel" if named is not None else f"that the split {train_name!r} has"
        remedy = (
            f"Such a split hides its labels: evaluate on another, valid=..., or make one: "
            f"dd[{train_name!r}].train_test_split(test_size=0.1)."
            if all_hidden
            else "Take these rows out with dd.filter, or number the classes with dd.map. For labels that are no "
            "classes use a torch DataLoader with collate_fn=nntrain.data.hf_ds_collate_fn."
        )
        raise DataError(
            f"{len(wrong)} of the {len(labels)} labels of the split {name!r}, column {split.label!r}, are no class, "
            f"first row {row} with {value}; expected {expected}, the classes {source}. {remedy}"
        )


def _select_columns(dataset: Dataset, image: str, label: str) -> Dataset:
    """Return the dataset with the two columns only, as PIL images and integers."""
    from datasets.features.image import Image

    feature = dataset.features[image]
    if not feature.decode:
        dataset = dataset.cast_column(image, Image(mode=feature.mode))
    if dataset.format["type"] == "custom":  # set_transform, which may need the other columns
        return dataset
    plain: Dataset = dataset.with_format(None).select_columns([image, label])
    return plain
