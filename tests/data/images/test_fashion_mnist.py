from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets.dataset_dict import DatasetDict
from numpy.typing import NDArray

from nntrain.data import DataLoaders, load_fashion_mnist
from nntrain.data.images.fashion_mnist import CLASSES
from nntrain.errors import DataError, NNTrainError

REAL = Path("/usr/share/datasets/fashion-mnist")
"""Where the package dataset-fashion-mnist of Debian and Ubuntu puts the real files."""

STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 | array.ndim, *array.shape) + array.tobytes()


def contents() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for stem, count in (("train", 6), ("t10k", 3)):
        files[f"{stem}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"{stem}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8))
    return files


def write(folder: Path, files: dict[str, bytes], *, packed: bool = False, dotted: bool = False) -> Path:
    for name, content in files.items():
        target = name.replace("-idx", ".idx") if dotted else name
        if packed:
            (folder / f"{target}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (folder / target).write_bytes(content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_four_files_of_either_name_packed_or_not(tmp_path: Path, packed: bool, dotted: bool) -> None:
    files = contents()
    dd = load_fashion_mnist(write(tmp_path, files, packed=packed, dotted=dotted))
    assert isinstance(dd, DatasetDict)
    assert {name: len(split) for name, split in dd.items()} == {"train": 6, "test": 3}
    assert dd["train"].features["label"] == datasets.ClassLabel(names=list(CLASSES))
    assert dd["train"]["label"][:] == [0, 1, 2, 3, 4, 5]
    images = np.stack([np.asarray(image) for image in dd["train"]["image"]])
    assert images.tobytes() == files["train-images-idx3-ubyte"][16:]


def test_an_unpacked_file_that_kept_its_name(tmp_path: Path) -> None:
    for name, content in contents().items():
        (tmp_path / f"{name}.gz").write_bytes(content)
    assert len(load_fashion_mnist(tmp_path)["test"]) == 3


def broken(name: str, content: bytes) -> dict[str, bytes]:
    return {**contents(), name: content}


GOOD = contents()
IMAGES, LABELS = STEMS[0], STEMS[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            IMAGES,
            GOOD[IMAGES][:-1],
            r"is truncated: its header says \[6, 28, 28\], 4704 bytes of data, and it has 4703",
        ),
        (IMAGES, GOOD[IMAGES] + b"\0", "has bytes left over.*4704 bytes of data, and it has 4705"),
        (IMAGES, GOOD[IMAGES][:10], "is truncated: 10 bytes, of which the header alone takes 16"),
        (IMAGES, b"", "is truncated: 0 bytes"),
        (IMAGES, GOOD[LABELS] + b"\0" * 20, "no idx file of bytes in 3 dimensions: .*0x00000801; expected 0x00000803"),
        (LABELS, GOOD[IMAGES], "no idx file of bytes in 1 dimensions: .*0x00000803; expected 0x00000801"),
        (LABELS, b"<html>not found</html>", "no idx file.*expected 0x00000801"),
        (LABELS, GOOD[LABELS][:-2], "is truncated"),
        (IMAGES, idx(np.zeros((6, 8, 8), np.uint8)), "images of 8 by 8; expected 28 by 28"),
        (IMAGES, idx(np.zeros((0, 28, 28), np.uint8)), "is empty"),
        (LABELS, idx(np.zeros(5, np.uint8)), "has 6 images, but .* has 5 labels"),
        (LABELS, idx(np.full(6, 10, np.uint8)), "a label is 10; expected 0 to 9"),
        (LABELS, gzip.compress(GOOD[LABELS], mtime=0)[:-9], "is truncated or damaged"),
        (LABELS, gzip.compress(GOOD[LABELS], mtime=0)[:-8] + b"\0" * 8, "is truncated or damaged"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load_fashion_mnist(write(tmp_path, broken(name, content)))
    assert name in str(raised.value)


@pytest.mark.parametrize("name", STEMS)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    files = contents()
    del files[name]
    with pytest.raises(DataError, match=rf"looked for {name}, {name}\.gz") as raised:
        load_fashion_mnist(write(tmp_path, files))
    assert str(tmp_path) in str(raised.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load_fashion_mnist(tmp_path / "nowhere")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser can read any file")
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, contents())
    (tmp_path / LABELS).chmod(0)
    with pytest.raises(DataError, match=f"{LABELS} cannot be read"):
        load_fashion_mnist(tmp_path)


def test_without_the_hub_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr("datasets.load.load_dataset", refuse)
    with pytest.raises(
        DataError, match=r"zalando-datasets/fashion_mnist could not be loaded.*reach.*--data-dir"
    ) as raised:
        load_fashion_mnist()
    assert isinstance(raised.value, NNTrainError)
    assert isinstance(raised.value.__cause__, ConnectionError)


def test_the_hubs_data_set_is_given_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    dd = DatasetDict()
    monkeypatch.setattr("datasets.load.load_dataset", lambda name: dd)
    assert load_fashion_mnist() is dd


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}: install the package dataset-fashion-mnist")
@pytest.mark.sweep
def test_the_real_files() -> None:
    dd = load_fashion_mnist(REAL)
    assert {name: len(split) for name, split in dd.items()} == {"train": 60_000, "test": 10_000}
    for split in dd.values():
        assert np.bincount(split["label"]).tolist() == [len(split) // 10] * 10
    # The first nine of the test set, as the original repository's pictures show them.
    assert dd["test"]["label"][:9] == [9, 2, 1, 1, 6, 1, 4, 6, 5]
    dls = DataLoaders.from_hf_dd(dd)
    mean = torch.stack([images.mean() * len(images) for images, _ in dls.valid]).sum() / 10_000
    assert abs(mean.item() - 0.2868) < 1e-3
