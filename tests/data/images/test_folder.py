"""Folders of image files: their classes, their splits, and what is no such folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nntrain import DataLoaders
from nntrain.data import load_image_folder
from nntrain.errors import ConfigError, DataError


def written(folder: Path, classes: Mapping[str, int], size: tuple[int, int] = (4, 3), mode: str = "RGB") -> Path:
    """Write so many images of each class; all pixels of one are its number among all."""
    number = 0
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for at in range(count):
            Image.fromarray(np.full(size[::-1], number, np.uint8)).convert(mode).save(folder / name / f"{at:02}.png")
            number += 1
    return folder


def test_splits_by_their_names_and_classes_by_theirs(tmp_path: Path) -> None:
    written(tmp_path / "train", {"dog": 3, "cat": 2})
    written(tmp_path / "test", {"dog": 1, "cat": 1})
    (tmp_path / ".cache").mkdir()
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").touch()
    dd = load_image_folder(tmp_path)
    assert {name: len(split) for name, split in dd.items()} == {"train": 5, "test": 2}
    assert dd["train"].features["label"].names == ["cat", "dog"]
    dls = DataLoaders.from_hf_dd(dd, batch_size=9, shuffle=False)
    images, labels = next(iter(dls.train))
    assert (images.shape, labels.tolist()) == ((5, 3 * 3 * 4), [0, 0, 1, 1, 1])
    assert (images[:, 0] * 255).round().tolist() == [3, 4, 0, 1, 2]


def test_one_folder_is_split_by_the_seed_class_by_class(tmp_path: Path) -> None:
    written(tmp_path, {"a": 10, "b": 5, "c": 1})
    first, again, other = (load_image_folder(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert [first[name]["label"].count(at) for name in ("train", "valid") for at in range(3)] == [8, 4, 1, 2, 1, 0]

    def files(dd: object) -> list[str]:
        return [one["path"] for one in dd["valid"].data["image"].to_pylist()]  # type: ignore[index] # of two splits

    assert files(first) == files(again) != files(other)
    half = load_image_folder(tmp_path, share=0.5)
    assert len(half["valid"]) == 5 + 2


def test_grey_and_colour_are_read_alike_and_a_class_may_be_called_train(tmp_path: Path) -> None:
    written(tmp_path, {"train": 2}, mode="L")
    written(tmp_path, {"plane": 2}, mode="RGBA")
    dls = DataLoaders.from_hf_dd(load_image_folder(tmp_path), batch_size=9, flatten=False)
    images, labels = next(iter(dls.train))
    assert (images.shape, sorted(labels.tolist())) == ((2, 3, 3, 4), [0, 1])
    assert images.dtype == torch.float32


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    written(tmp_path, {"a": 3, "b": 3})
    for name in ("a", "b"):
        for file in (tmp_path / name).glob("*.png"):
            file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot be decoded: UnidentifiedImageError: .*\.png"):
        DataLoaders.from_hf_dd(load_image_folder(tmp_path), batch_size=2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "has no sub-folder; expected a sub-folder of images for each class, or train and valid"),
        (lambda path: written(path, {"a": 3}), "has one class, 'a': there is nothing to tell apart. Expected"),
        (lambda path: written(path, {"a": 3, "b": 3, "c": 0}), "has no image in 'c' \\(.jpg"),
        (lambda path: written(path, {"a": 1, "b": 1}), "No class has two images"),
        (
            lambda path: written(path / "train", {"a": 2, "b": 2}),
            "has train, and nothing to evaluate on: no validation",
        ),
        (
            lambda path: (written(path / "train", {"a": 2, "b": 2}), written(path / "val", {"a": 1, "c": 2})),
            "val has 'c', which .*train has not: it is not learned",
        ),
        (lambda path: (path / "x").rmdir() if (path / "x").exists() else path.rmdir(), "does not exist; expected"),
    ],
)
def test_what_is_no_folder_of_images(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    make(folder)
    with pytest.raises(DataError, match=said):
        load_image_folder(folder)


@pytest.mark.parametrize("share", [0, 1.0, True, "half"])
def test_a_share_that_is_none(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="expected a number between 0 and 1"):
        load_image_folder(tmp_path, share=share)
