"""Fashion-MNIST: 70,000 greyscale images of clothes, 28 by 28, in ten classes.

H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms, 2017, arXiv:1708.07747. The idx format is that of Y. LeCun's MNIST.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from nntrain.data.images.png import grey_images
from nntrain.errors import DataError

if TYPE_CHECKING:
    from datasets.arrow_dataset import Dataset
    from datasets.dataset_dict import DatasetDict
    from numpy.typing import NDArray

HUB_NAME: Final = "zalando-datasets/fashion_mnist"

CLASSES: Final = (
    "T - shirt / top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The classes by label, spelled as on the hub, so that both sources have the same features."""


def load_fashion_mnist(data_dir: Path | None = None) -> DatasetDict:
    """Load Fashion-MNIST: splits train (60,000) and test (10,000), columns image and label.

    Args:
        data_dir: a folder with the four idx files, `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
            `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, each plain or `.gz`, and each also with '.'
            before `idx`. Without it, the data set comes from the Hugging Face hub.

    Raises:
        DataError: a file is missing or not what it should be (the error names it), or the hub cannot be
            reached.
    """
    from datasets.dataset_dict import DatasetDict

    if data_dir is None:
        return _from_hub()
    folder = Path(data_dir)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected the folder with the four idx files of Fashion-MNIST.")
    # All four are found before any is read: a missing one is reported at once.
    files = {
        name: (_find(folder, f"{name}-images", 3), _find(folder, f"{name}-labels", 1)) for name in ("train", "t10k")
    }
    return DatasetDict({"train": _split(*files["train"]), "test": _split(*files["t10k"])})


def _from_hub() -> DatasetDict:
    from datasets.dataset_dict import DatasetDict
    from datasets.load import load_dataset

    try:
        dd = load_dataset(HUB_NAME)
    except OSError as error:
        raise DataError(
            f"{HUB_NAME} could not be loaded from the Hugging Face hub: {error}. Without the hub, get the "
            "four idx files of Fashion-MNIST and give their folder: --data-dir FOLDER, load_fashion_mnist(folder)."
        ) from error
    if not isinstance(dd, DatasetDict):
        raise DataError(f"the hub gave a {type(dd).__name__} for {HUB_NAME}; expected a DatasetDict.")
    return dd


def _find(folder: Path, stem: str, rank: int) -> Path:
    names = [f"{stem}{mark}idx{rank}-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} has no file of {stem}; looked for {', '.join(names)}.")


def _split(images_path: Path, labels_path: Path) -> Dataset:
    pixels = _read_idx(images_path, 3)
    labels = _read_idx(labels_path, 1)
    if pixels.shape[1:] != (28, 28):
        raise DataError(f"{images_path}: images of {pixels.shape[1]} by {pixels.shape[2]}; expected 28 by 28.")
    if len(pixels) != len(labels):
        raise DataError(
            f"{images_path} has {len(pixels)} images, but {labels_path} has {len(labels)} labels; expected "
            "as many. They are not of one download."
        )
    if labels.max() >= len(CLASSES):
        raise DataError(f"{labels_path}: a label is {labels.max()}; expected 0 to {len(CLASSES) - 1}.")
    return grey_images(pixels, labels, CLASSES)


def _read_idx(path: Path, rank: int) -> NDArray[np.uint8]:
    """Read one idx file of bytes: a magic, whose last byte is the rank, the sizes, then the data."""
    content = _content(path)
    magic = 0x00000800 + rank
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(f"{path} is truncated: {len(content)} bytes, of which the header alone takes {start}.")
    found, *shape = struct.unpack(f">{1 + rank}I", content[:start])
    if found != magic:
        raise DataError(
            f"{path} is no idx file of bytes in {rank} dimensions: it begins with 0x{found:08x}; "
            f"expected 0x{magic:08x}."
        )
    expected, given = math.prod(shape), len(content) - start
    if given != expected:
        fault = "is truncated" if given < expected else "has bytes left over"
        raise DataError(f"{path} {fault}: its header says {shape}, {expected} bytes of data, and it has {given}.")
    if expected == 0:
        raise DataError(f"{path} is empty: its header says {shape}.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        # By content, not by name: browsers decompress .gz files and keep the name.
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged: {error}. Get it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
