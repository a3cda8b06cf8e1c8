"""Images to tell apart, made on the spot."""

from __future__ import annotations

import numpy as np
from datasets import features
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from PIL import Image


def stripes(count: int = 400, size: int = 8, seed: int = 0) -> DatasetDict:
    """Make `count` images of `size` by `size` pixels for each of train and test: stripes across (0) or down (1)."""
    columns = features.Features(image=features.Image(), label=features.ClassLabel(names=["across", "down"]))  # type: ignore[no-untyped-call] # datasets leaves it untyped
    splits = {}
    for number, name in enumerate(("train", "test")):
        source = np.random.default_rng((seed, number))
        labels = source.integers(0, 2, count)
        images = []
        for label in labels:
            row = source.integers(0, 256, size).astype(np.uint8)
            pixels = np.tile(row, (size, 1))
            images.append(Image.fromarray(pixels if label else np.ascontiguousarray(pixels.T)))
        splits[name] = Dataset.from_dict({"image": images, "label": labels.tolist()}, features=columns)
    return DatasetDict(splits)
