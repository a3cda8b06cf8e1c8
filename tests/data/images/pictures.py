"""Real, small data sets of images in every PIL mode that is common in files."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from datasets.features.features import ClassLabel, Features, Value
from datasets.features.image import Image as ImageFeature
from PIL import Image

MODES = ("L", "RGB", "RGBA", "P", "1", "LA")


def picture(mode: str, seed: int, size: tuple[int, int] = (5, 4)) -> Image.Image:
    rng = np.random.default_rng(seed)
    width, height = size
    colours = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    if mode == "P":
        return colours.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=7)
    return colours.convert(mode)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def stored(contents: Sequence[bytes], labels: Sequence[int | None], classes: int = 3) -> Dataset:
    label = ClassLabel(names=[str(number) for number in range(classes)])
    features = Features(image=ImageFeature(), label=label)  # type: ignore[no-untyped-call]  # datasets leaves it untyped
    columns = {"image": [{"bytes": one, "path": None} for one in contents], "label": list(labels)}
    return Dataset.from_dict(columns, features=features)


def dataset(count: int, mode: str = "L", seed: int = 0) -> Dataset:
    """`count` images; the label is the row modulo 3."""
    return stored([png(picture(mode, seed + row)) for row in range(count)], [row % 3 for row in range(count)])


def numbered(count: int) -> Dataset:
    """One-pixel images with the row as the (integer) label, to see an order by."""
    label = Value("int32")
    features = Features(image=ImageFeature(), label=label)  # type: ignore[no-untyped-call]  # datasets leaves it untyped
    content = png(picture("L", 0, (1, 1)))
    columns = {"image": [{"bytes": content, "path": None}] * count, "label": list(range(count))}
    return Dataset.from_dict(columns, features=features)


def dataset_dict(train: int = 7, test: int = 4, mode: str = "L") -> DatasetDict:
    return DatasetDict({"train": dataset(train, mode), "test": dataset(test, mode, seed=1000)})
