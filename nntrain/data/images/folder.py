"""Image files in folders, one folder for each class: as a `DatasetDict`, split as the folders say or by a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from nntrain.data.images.hf import TEST_NAMES, TRAIN_NAMES, VALID_NAMES
from nntrain.data.images.reference import quoted
from nntrain.errors import ConfigError, DataError
from nntrain.values.numbers import is_number

if TYPE_CHECKING:
    from datasets.arrow_dataset import Dataset
    from datasets.dataset_dict import DatasetDict

SHARE: Final = 0.2
"""Of each class's images, how many are evaluated on where the folder does not say."""
_LAYOUT: Final = "expected a sub-folder of images for each class, or train and valid (or test) with such in them"
Files = Mapping[str, Sequence[str]]
"""The paths of the images, by class."""


def load_image_folder(path: Path | str, *, seed: int = 0, share: float = SHARE) -> DatasetDict:
    """Load image files, whose classes are the folders that they are in, with the columns "image" (RGB) and "label".

    The splits are the sub-folders `train`, and `valid`, `val`, `dev`, `test` ... in it, each with a folder for each
    class; or, where it has the classes themselves, "train" and "valid": of each class that has two images or more,
    `share` of them are in "valid", at least one, drawn with `seed`. Classes are numbered by their names' order. Hidden
    folders are left out; images may lie deeper. The files are read when they are needed.

    Raises:
        ConfigError: `share` is no number between 0 and 1.
        DataError: `path` is no such folder; a class has no image, there is only one, or a split has a class that is not
            learned.
    """
    if not (is_number(share) and 0 < share < 1):
        raise ConfigError(f"share is {share!r:.80}; expected a number between 0 and 1, like {SHARE}.")
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}; {_LAYOUT}.")
    within = _folders(folder)
    learned = next((name for name in TRAIN_NAMES if name in within and _folders(folder / name)), None)
    if learned is None:
        splits = _drawn(_files_of(folder), seed, share)
    else:
        others = [name for name in (*VALID_NAMES, *TEST_NAMES) if name in within]
        if not others:
            raise DataError(
                f"{folder} has {learned}, and nothing to evaluate on: no {', '.join((*VALID_NAMES, *TEST_NAMES))}. Add "
                f"one of them; or give {folder / learned}, of which a share is drawn."
            )
        splits = {name: _files_of(folder / name) for name in (learned, *others)}
    classes = list(next(iter(splits.values())))
    if len(classes) == 1:
        raise DataError(
            f"{folder} has one class, {classes[0]!r}: there is nothing to tell apart. {_LAYOUT.capitalize()}."
        )
    for name, files in splits.items():
        unknown = [one for one in files if one not in classes]
        if unknown:
            raise DataError(
                f"{folder / name} has {quoted(unknown)}, which {folder / str(learned)} has not: it is not learned. The "
                f"classes are {quoted(classes)}."
            )
    from datasets.dataset_dict import DatasetDict

    return DatasetDict({name: _dataset(files, classes) for name, files in splits.items()})


def is_image_folder(path: Path) -> bool:
    """Return whether a folder is read as images, and not as what `DatasetDict.save_to_disk` wrote."""
    return not any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _folders(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def _files_of(folder: Path) -> Files:
    """Return the images of a folder of classes. Raises `DataError` for what is none."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset  # type: ignore[import-untyped] # no py.typed

    classes = _folders(folder)
    if not classes:
        raise DataError(f"{folder} has no sub-folder; {_LAYOUT}. Nor was it written by DatasetDict.save_to_disk.")
    found: dict[str, list[str]] = {name: [] for name in classes}
    numbers = {name: number for number, name in enumerate(classes)}
    for file, number in make_dataset(str(folder), numbers, IMG_EXTENSIONS, allow_empty=True):
        found[classes[number]].append(file)
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise DataError(
            f"{folder} has no image in {quoted(empty)} ({', '.join(IMG_EXTENSIONS)}); {_LAYOUT}. Take away what is no "
            f"class."
        )
    return found


def _drawn(files: Files, seed: int, share: float) -> dict[str, Files]:
    """Return a train and a valid split, both with all classes that have two images or more."""
    source = torch.Generator().manual_seed(seed)
    train: dict[str, Sequence[str]] = {}
    valid: dict[str, Sequence[str]] = {}
    for name, of_class in files.items():
        order: list[int] = torch.randperm(len(of_class), generator=source).tolist()
        count = min(max(round(share * len(of_class)), 1), len(of_class) - 1)
        valid[name] = [of_class[at] for at in sorted(order[:count])]
        train[name] = [of_class[at] for at in sorted(order[count:])]
    if not any(valid.values()):
        raise DataError("No class has two images, so that there is nothing to evaluate on. Add images.")
    return {"train": train, "valid": valid}


def _dataset(files: Files, classes: Sequence[str]) -> Dataset:
    from datasets.arrow_dataset import Dataset
    from datasets.features.features import ClassLabel, Features
    from datasets.features.image import Image

    columns = {
        "image": [file for of_class in files.values() for file in of_class],
        "label": [classes.index(name) for name, of_class in files.items() for _ in of_class],
    }
    kinds = {"image": Image(mode="RGB"), "label": ClassLabel(names=list(classes))}
    return Dataset.from_dict(columns, features=Features(kinds))  # type: ignore[no-untyped-call, arg-type] # it has none
