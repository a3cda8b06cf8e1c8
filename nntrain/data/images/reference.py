"""The reference path: torchvision's `to_tensor`, sample by sample, for use with a torch `DataLoader`.

Every other path must give the same bits for an image, and must refuse what it refuses.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nntrain.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


def hf_ds_collate_fn(
    examples: Sequence[Mapping[str, object]],
    *,
    image: str = "image",
    label: str = "label",
    flatten: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return one batch of examples, which iterating a `datasets.Dataset` yields: the reference path.

    Each image goes through `torchvision.transforms.functional.to_tensor`. Images with a palette ('P', 'PA')
    are converted to RGB (RGBA) first, since the numbers of a palette are not intensities.

    Returns:
        The images, float32 in [0, 1], [B, C*H*W] or with `flatten=False` [B, C, H, W], and the labels,
        int64 [B].

    Raises:
        DataError: an image is missing, not an 8-bit PIL image or of another shape than the others, a label is not
            an integer, or there is no such column.

    >>> from PIL import Image
    >>> images, labels = hf_ds_collate_fn([{"image": Image.new("L", (2, 1), 255), "label": 7}])
    >>> images, labels
    (tensor([[1., 1.]]), tensor([7]))
    """
    from torchvision.transforms.functional import to_tensor  # type: ignore[import-untyped]  # it has no py.typed

    if isinstance(examples, Mapping):
        raise DataError(
            f"hf_ds_collate_fn was given a mapping of columns ({', '.join(map(repr, examples))}); "
            "expected a list of examples. Pass [dataset[i] for i in rows], or use it as a DataLoader's collate_fn."
        )
    if not examples:
        raise DataError("hf_ds_collate_fn was given no examples; a batch has at least one.")
    for example in examples:
        for column in (image, label):
            if column not in example:
                raise DataError(
                    f"no column {column!r} in the example; its columns are {quoted(example)}. Name it: "
                    "functools.partial(hf_ds_collate_fn, image=..., label=...)."
                )
    names = [f"example {position} of the batch" for position in range(len(examples))]
    pixels = [
        # to_tensor returns torch's default dtype; float64 rounds to the same bits as a float32 division.
        to_tensor(_eight_bit(example[image], name)).to(torch.float32)
        for example, name in zip(examples, names, strict=True)
    ]
    check_shapes([tuple(one.shape) for one in pixels], names)
    images = torch.stack(pixels)
    return images.flatten(1) if flatten else images, labels_of([one[label] for one in examples], names)


def _eight_bit(image: object, name: str) -> Image.Image:
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise DataError(f"the image of {name} is a {type(image).__name__}: {str(image)[:80]}; expected a PIL image.")
    if image.mode in {"P", "PA"}:
        return image.convert("RGB" if image.mode == "P" else "RGBA")
    if image.mode.startswith(("I", "F")):
        raise DataError(
            f"the image of {name} has mode {image.mode!r}, whose intensities have no fixed range to bring to "
            "[0, 1]; expected 8 bits a channel. Scale and convert it with dd.map, to mode 'L' for instance."
        )
    return image


def pixels_of(image: object, name: str) -> NDArray[np.uint8]:
    """Return the intensities that `to_tensor` divides by 255: uint8 [H, W, C].

    Raises:
        DataError: it is not a PIL image with 8 bits a channel; the error calls it `name`.
    """
    import numpy as np

    readable = _eight_bit(image, name)
    pixels: NDArray[np.uint8] = np.asarray(readable.convert("L") if readable.mode == "1" else readable)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def labels_of(values: Sequence[object], names: Sequence[str]) -> Tensor:
    """Return the labels of a batch: int64 [B].

    Raises:
        DataError: a label is not an integer, or does not fit into 64 bits; the error names it.
    """
    labels = []
    for value, name in zip(values, names, strict=True):
        try:
            labels.append(operator.index(value))  # type: ignore[arg-type]  # the except is for what is not an integer
        except TypeError as error:
            raise DataError(f"the label of {name} is {str(value)[:80]!r}; expected an integer.") from error
        if not -(1 << 63) <= labels[-1] < 1 << 63:
            raise DataError(f"the label of {name} is {labels[-1]}; expected one that int64 holds.")
    return torch.tensor(labels, dtype=torch.int64, device="cpu")


def check_shapes(shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> None:
    """Raise a `DataError` that names the first image whose shape [C, H, W] differs from the first one's."""
    for shape, name in zip(shapes, names, strict=True):
        if shape != shapes[0]:
            raise DataError(
                f"the images have different shapes [C, H, W]: {names[0]} has {list(shapes[0])}, {name} has "
                f"{list(shape)}; expected the same for all. Resize them with dd.map, or bring them to one "
                "mode: dd.cast_column(name, datasets.Image(mode='RGB'))."
            )


def quoted(names: Collection[object]) -> str:
    """Return names for an error, each in quotes."""
    return ", ".join(map(repr, names)) or "none"
