"""The embedded data set: 1,797 handwritten digits, so that a first training needs no network.

The UCI Optical Recognition of Handwritten Digits test set, E. Alpaydin and C. Kaynak, 1998,
DOI 10.24432/C50P49, CC BY 4.0; see `digits.LICENSE.md`.
"""

from __future__ import annotations

import gzip
from importlib import resources
from typing import TYPE_CHECKING, Final

import numpy as np

from nntrain.data.images.png import grey_images

if TYPE_CHECKING:
    from datasets.dataset_dict import DatasetDict

TEST_EVERY: Final = 5
"""Of each digit every fifth image of the file, from its first, is in the test split."""


def load_digits() -> DatasetDict:
    """Load the embedded digits: splits train (1,433) and test (364), columns image and label.

    Images are 8 by 8, 8-bit greyscale PNG. The source counts from 0 to 16; a count v becomes
    round(255 * v / 16), halves up. The test split is every fifth image of each digit, in the order of the source, so
    that the same writers are in both; by writers of its own, the last of the source, a model is judged worse.

    It needs no network and writes no file.
    """
    from datasets.dataset_dict import DatasetDict

    packed = resources.files("nntrain.data.images").joinpath("digits.csv.gz").read_bytes()
    rows = gzip.decompress(packed).decode("ascii").splitlines()
    table = np.array([row.split(",") for row in rows], dtype=np.int64)
    counts, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64]
    pixels = ((counts * 255 + 8) // 16).astype(np.uint8)
    classes = [str(digit) for digit in range(10)]
    test = np.zeros(len(table), dtype=bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[::TEST_EVERY]] = True
    return DatasetDict(
        {
            "train": grey_images(pixels[~test], labels[~test], classes),
            "test": grey_images(pixels[test], labels[test], classes),
        }
    )
