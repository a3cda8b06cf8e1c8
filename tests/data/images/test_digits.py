from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets.dataset_dict import DatasetDict

from nntrain.data import DataLoaders, load_digits


def test_it_is_a_dataset_dict_of_the_whole_set() -> None:
    dd = load_digits()
    assert isinstance(dd, DatasetDict)
    assert {name: len(split) for name, split in dd.items()} == {"train": 1433, "test": 364}
    for split in dd.values():
        assert split.features["image"] == datasets.Image()
        assert split.features["label"] == datasets.ClassLabel(names=[str(digit) for digit in range(10)])
    first = dd["train"][0]
    assert first["image"].mode == "L"
    assert first["image"].size == (8, 8)
    assert first["image"].format == "PNG"


def test_the_values_are_those_of_the_source() -> None:
    dd = load_digits()
    images = np.stack([np.asarray(image) for split in dd.values() for image in split["image"]])
    labels = [label for split in dd.values() for label in split["label"]]
    counts = np.round(images.astype(float) * 16 / 255).astype(int)
    assert (images == (counts * 255 + 8) // 16).all()
    assert counts.min() == 0
    assert counts.max() == 16
    # The first image and the numbers of each digit, as UCI's description and scikit-learn's copy have them.
    # It is in the test split, which has the first of each digit.
    assert counts[len(dd["train"])].tolist()[:2] == [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]
    assert [Counter(labels)[digit] for digit in range(10)] == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert counts.sum() == 561718


def test_the_test_split_is_fair_and_always_the_same() -> None:
    one, other = load_digits(), load_digits()
    assert one["test"]["label"][:] == other["test"]["label"][:]
    assert sorted(Counter(one["test"]["label"]).values()) == [35, 36, 36, 36, 36, 37, 37, 37, 37, 37]


def test_loaders_take_it_as_it_is() -> None:
    images, labels = next(iter(DataLoaders.from_hf_dd(load_digits(), 64).train))
    assert images.shape == (64, 64)
    assert images.dtype == torch.float32
    assert images.min() == 0
    assert images.max() == 1
    assert labels.shape == (64,)


def test_it_writes_no_file_and_needs_no_network(tmp_path: Path) -> None:
    program = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from nntrain.data import DataLoaders, load_digits\n"
        "assert len(list(DataLoaders.from_hf_dd(load_digits()).train)) == 2\n"
    )
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    names = {"HOME": home, "HF_HOME": home / "hf", "XDG_CACHE_HOME": home / "cache", "TMPDIR": temporary}
    environment = {**os.environ, **{name: str(folder) for name, folder in names.items()}}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_source_and_licence_are_said() -> None:
    text = Path(load_digits.__code__.co_filename).with_name("digits.LICENSE.md").read_text("utf-8")
    for words in ("E. Alpaydin and C. Kaynak", "10.24432/C50P49", "CC BY 4.0", "What was changed"):
        assert words in text
