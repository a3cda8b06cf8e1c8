"""Arrays of greyscale pixels as a `datasets.Dataset` of PNG images in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from datasets.arrow_dataset import Dataset
    from numpy.typing import NDArray


def grey_images(pixels: NDArray[np.uint8], labels: NDArray[np.integer], classes: Sequence[str]) -> Dataset:
    """Return a dataset with columns image (`datasets.Image`) and label (`datasets.ClassLabel`).

    Args:
        pixels: uint8 [N, H, W].
        labels: integers [N] from 0 to `len(classes) - 1`.
        classes: the names of the classes.
    """
    from datasets.arrow_dataset import Dataset
    from datasets.features.features import ClassLabel, Features
    from datasets.features.image import Image

    label = ClassLabel(names=list(classes))
    features = Features(image=Image(), label=label)  # type: ignore[no-untyped-call]  # datasets leaves it untyped
    columns = {"image": [{"bytes": _encode_png(one), "path": None} for one in pixels], "label": labels.tolist()}
    return Dataset.from_dict(columns, features=features)


def _encode_png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    # Uncompressed: 70,000 images of 28 by 28 then take 2.2 s and 62 MB instead of the 3.9 s and 37 MB of
    # level 1, and are decoded faster.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
