"""Images from a Hugging Face `DatasetDict`: finds the splits and columns, and chooses the loaders.

Three ways lead to the same bits. `hf_ds_collate_fn` is the reference, for use with a torch `DataLoader`.
`DataLoaders.from_hf_dd` decodes each image once where all fit into memory (`ResidentLoader`), otherwise each time that
it is read (`HFLoader`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from nntrain.data.images.memory import format_bytes, free_memory
from nntrain.data.images.reference import hf_ds_collate_fn, quoted
from nntrain.data.images.resident import ResidentLoader, decode, processors
from nntrain.data.images.split import Split
from nntrain.data.images.streamed import HFLoader
from nntrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets.arrow_dataset import Dataset
    from datasets.dataset_dict import DatasetDict

__all__ = ["VALID_NAMES", "HFLoader", "ResidentLoader", "find_columns", "find_splits", "hf_ds_collate_fn", "hf_loaders"]

VALID_NAMES: Final = ("validation", "valid", "val", "test")
"""The names by which the valid split is found, the preferred one first."""

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
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}; expected an integer of at least 1.")
    _check_count("memory_budget", memory_budget, "bytes, or None for half of the free memory")
    _check_count("num_workers", num_workers, "processes, or None for one fewer than there are processors")
    train_name, valid_name = find_splits([str(name) for name in dd], train=train, valid=valid)
    splits = []
    for name in (train_name, valid_name):
        dataset = dd[name]
        if len(dataset) == 0:
            raise DataError(f"the split {name!r} is empty; expected at least one example.")
        image_name, label_name = find_columns(dataset.features, name, image=image, label=label)
        splits.append(Split(_select_columns(dataset, image_name, label_name), image_name, label_name))
    _check_same_classes(splits[0], splits[1], train_name, valid_name)
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
    )


def find_splits(names: Sequence[str], *, train: str | None = None, valid: str | None = None) -> tuple[str, str]:
    """Return the names of the train and the valid split.

    Raises:
        ConfigError: there is no such split, or it is not clear which is meant.

    >>> find_splits(["train", "test"])
    ('train', 'test')
    >>> find_splits(["a", "b"], train="b")
    ('b', 'a')
    """
    for argument, wanted in (("train", train), ("valid", valid)):
        if wanted is not None and wanted not in names:
            raise ConfigError(f"{argument}={wanted!r}: there is no such split; the splits are {quoted(names)}.")
    if train is None:
        if valid == "train":
            raise ConfigError(
                "valid='train' is the split that is learned from, unless another is named. Name it too: train=...."
            )
        if "train" not in names:
            raise ConfigError(f"no split named 'train'; the splits are {quoted(names)}. Name one: train=....")
        train = "train"
    if valid is None:
        others = [name for name in names if name != train]
        found = [name for name in VALID_NAMES if name in others] or (others if len(others) == 1 else [])
        if not found:
            raise ConfigError(
                f"no valid split found; the splits are {quoted(names)}, of which {train!r} is the train "
                f"split; looked for was {quoted(VALID_NAMES)} or a single other one. Name one: valid=...; "
                f"or make one: dd[{train!r}].train_test_split(test_size=0.1)."
            )
        valid = found[0]
    return train, valid


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
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 0):
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
