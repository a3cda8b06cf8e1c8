"""Images from a Hugging Face `DatasetDict`: which splits, which columns, in which order, as which tensors.

There are two ways to the same bits. `hf_ds_collate_fn` is the reference: torchvision's `to_tensor`, sample by
sample, for use with a torch `DataLoader`. `HFLoader` is what `DataLoaders.from_hf_dd` gives: it scales a
batch at once, needs no torchvision (whose import takes seconds), and reaches any batch of any epoch directly.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError, DataError
from nntrain.records import Key

if TYPE_CHECKING:
    import numpy as np
    from datasets.arrow_dataset import Dataset
    from datasets.dataset_dict import DatasetDict
    from numpy.typing import NDArray
    from PIL import Image

VALID_NAMES: Final = ("validation", "valid", "val", "test")
"""The names under which the split to be judged on is looked for, best first."""


def hf_ds_collate_fn(
    examples: Sequence[Mapping[str, object]],
    *,
    image: str = "image",
    label: str = "label",
    flatten: bool = True,
) -> tuple[Tensor, Tensor]:
    """Make one batch from examples as iterating a `datasets.Dataset` gives them: the reference path.

    Each image goes through `torchvision.transforms.functional.to_tensor`. Images with a palette ('P', 'PA')
    are converted to RGB (RGBA) first, since the numbers of a palette are no intensities.

    Returns:
        The images, float32 in [0, 1], [B, C*H*W] or with `flatten=False` [B, C, H, W], and the labels,
        int64 [B].

    Raises:
        DataError: an image is missing, no 8-bit PIL image or of another shape than the others, a label is no
            integer, or there is no such column.

    >>> from PIL import Image
    >>> images, labels = hf_ds_collate_fn([{"image": Image.new("L", (2, 1), 255), "label": 7}])
    >>> images, labels
    (tensor([[1., 1.]]), tensor([7]))
    """
    from torchvision.transforms.functional import (  # type: ignore[import-untyped]  # it has no py.typed
        to_tensor,
    )

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
                    f"no column {column!r} in the example; its columns are {_listed(example)}. Name it: "
                    "functools.partial(hf_ds_collate_fn, image=..., label=...)."
                )
    names = _positions(len(examples))
    pixels = [
        # to_tensor gives torch's default dtype; float64 rounds to the bits that float32 has from the start.
        to_tensor(_eight_bit(example[image], name)).to(torch.float32)
        for example, name in zip(examples, names, strict=True)
    ]
    _check_shapes([tuple(one.shape) for one in pixels], names)
    images = torch.stack(pixels)
    return images.flatten(1) if flatten else images, _as_labels([one[label] for one in examples], names)


@dataclass(frozen=True)
class HFLoader:
    """Batches of images and labels from one split, in an order that is a function of (key, epoch).

    Batch k of an epoch is reached without producing the k before it. Images are decoded each time they are
    read. Bits, shapes and dtypes are those of `hf_ds_collate_fn`. Iterating it plainly gives epoch 0 of
    `Key(seed=0)`.

    A transform of the dataset's own (`set_transform`) is kept, and must leave a PIL image; any other format
    (`set_format`) is left aside.
    """

    dataset: Dataset = field(repr=False)
    batch_size: int
    image: str
    label: str
    flatten: bool = True
    shuffle: bool = False

    def __len__(self) -> int:
        """Count the batches of an epoch; the last one may be short."""
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches(Key(seed=0), 0, 0)

    def order(self, key: Key, epoch: int) -> Tensor:
        """Give the rows of the split in the order of this epoch: int64 [N]."""
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        generator = torch.Generator().manual_seed(key.fold(epoch).bits)
        return torch.randperm(len(self.dataset), generator=generator)

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the batches of an epoch from the batch `start` on.

        Raises:
            ConfigError: `start` is not within 0 to `len(self)`.
            DataError: an image cannot be decoded or does not fit the others; the error names the row.
        """
        if not 0 <= start <= len(self):
            raise ConfigError(
                f"batch {start} was asked for, of an epoch of {len(self)} batches of {self.batch_size}; "
                f"expected 0 to {len(self)}. A state of a training on other data, or with another batch_size, "
                "cannot go on here."
            )
        return self._read(self.order(key, epoch).tolist(), start)

    def _read(self, rows: list[int], start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(start * self.batch_size, len(rows), self.batch_size):
            yield self._batch(rows[first : first + self.batch_size])

    def _batch(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        try:
            columns: dict[str, list[object]] = self.dataset[rows]
        except (OSError, SyntaxError) as error:  # what PIL raises for files that are broken
            raise self._undecodable(rows, error) from error
        for column in (self.image, self.label):
            if column not in columns:
                raise DataError(f"the dataset's transform left no column {column!r}, only {_listed(columns)}.")
        names = [f"row {row}" for row in rows]
        return (
            _as_images(columns[self.image], names, flatten=self.flatten),
            _as_labels(columns[self.label], names),
        )

    def _undecodable(self, rows: Sequence[int], error: Exception) -> DataError:
        for row in rows:
            try:
                self.dataset[row]
            except (OSError, SyntaxError):
                return DataError(f"the image of row {row}, column {self.image!r}, cannot be decoded: {error}")
        return DataError(f"an image of column {self.image!r} could not be decoded, then could: {error}")


def hf_loaders(
    dd: DatasetDict,
    batch_size: int,
    *,
    train: str | None,
    valid: str | None,
    image: str | None,
    label: str | None,
    flatten: bool,
    shuffle: bool,
) -> tuple[HFLoader, HFLoader]:
    """Make the loaders of the two splits, all checks made; see `DataLoaders.from_hf_dd`."""
    _check_dataset_dict(dd)
    _check_batch_size(batch_size)
    train_name, valid_name = find_splits([str(name) for name in dd], train=train, valid=valid)
    loaders = []
    for name, shuffled in ((train_name, shuffle), (valid_name, False)):
        dataset = dd[name]
        if len(dataset) == 0:
            raise DataError(f"the split {name!r} is empty; expected at least one example.")
        image_name, label_name = find_columns(dataset.features, name, image=image, label=label)
        dataset = _readable(dataset, image_name, label_name)
        loaders.append(HFLoader(dataset, batch_size, image_name, label_name, flatten=flatten, shuffle=shuffled))
    train_loader, valid_loader = loaders
    _check_same_classes(train_loader, valid_loader, train_name, valid_name)
    return train_loader, valid_loader


def find_splits(names: Sequence[str], *, train: str | None = None, valid: str | None = None) -> tuple[str, str]:
    """Find the split to learn from and the split to be judged on, by name.

    Raises:
        ConfigError: there is no such split, or none that can be told to be meant.

    >>> find_splits(["train", "test"])
    ('train', 'test')
    >>> find_splits(["a", "b"], train="b")
    ('b', 'a')
    """
    for argument, wanted in (("train", train), ("valid", valid)):
        if wanted is not None and wanted not in names:
            raise ConfigError(f"{argument}={wanted!r}: there is no such split; the splits are {_listed(names)}.")
    if train is None:
        if valid == "train":
            raise ConfigError(
                "valid='train' is the split that is learned from, unless another is named. Name it too: train=...."
            )
        if "train" not in names:
            raise ConfigError(f"no split named 'train'; the splits are {_listed(names)}. Name one: train=....")
        train = "train"
    if valid is None:
        others = [name for name in names if name != train]
        found = [name for name in VALID_NAMES if name in others] or (others if len(others) == 1 else [])
        if not found:
            raise ConfigError(
                f"no valid split found; the splits are {_listed(names)}, of which {train!r} is the train "
                f"split; looked for was {_listed(VALID_NAMES)} or a single other one. Name one: valid=...; "
                f"or make one: dd[{train!r}].train_test_split(test_size=0.1)."
            )
        valid = found[0]
    return train, valid


def find_columns(
    features: Mapping[str, object], split: str, *, image: str | None = None, label: str | None = None
) -> tuple[str, str]:
    """Find the image and the label column of a split by the types of its features.

    Raises:
        ConfigError: a column is missing, of the wrong kind, or more than one could be meant.
    """
    from datasets.features.features import ClassLabel
    from datasets.features.image import Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    integers = [name for name, feature in features.items() if _is_integer(feature)]
    listing = ", ".join(f"{name!r}: {feature}" for name, feature in features.items()) or "none"
    return (
        _pick(
            "image",
            image,
            candidates=images,
            allowed=images,
            kind="a datasets.Image",
            split=split,
            listing=listing,
        ),
        _pick(
            "label",
            label,
            candidates=classes or integers,
            allowed=[*classes, *integers],
            kind="a datasets.ClassLabel or an integer Value",
            split=split,
            listing=listing,
        ),
    )


def _pick(
    argument: str,
    wanted: str | None,
    *,
    candidates: Sequence[str],
    allowed: Sequence[str],
    kind: str,
    split: str,
    listing: str,
) -> str:
    if wanted is not None:
        if wanted not in allowed:
            raise ConfigError(
                f"{argument}={wanted!r}: the split {split!r} has no such column that is {kind}. "
                f"Its columns are {listing}."
            )
        return wanted
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise ConfigError(
            f"no {argument} column in the split {split!r}: none is {kind}. Its columns are {listing}. "
            "Cast one with dd.cast_column(name, feature)."
        )
    raise ConfigError(
        f"{len(candidates)} columns of the split {split!r} could be the {argument}: {_listed(candidates)}. "
        f"Name the one meant: {argument}={candidates[0]!r}. Its columns are {listing}."
    )


def _is_integer(feature: object) -> bool:
    from datasets.features.features import Value

    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))


def _check_batch_size(batch_size: object) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}; expected an integer of at least 1.")


def _check_dataset_dict(dd: object) -> None:
    from datasets.arrow_dataset import Dataset
    from datasets.dataset_dict import DatasetDict, IterableDatasetDict
    from datasets.iterable_dataset import IterableDataset

    if isinstance(dd, DatasetDict):
        return
    given = f"from_hf_dd was given a {type(dd).__name__}; expected a datasets.DatasetDict"
    if isinstance(dd, Dataset):
        raise ConfigError(f"{given}. Split it: dataset.train_test_split(test_size=0.1) gives one.")
    if isinstance(dd, (IterableDatasetDict, IterableDataset)):
        raise ConfigError(f"{given}, whose examples cannot be read in any order. Load it without streaming=True.")
    if isinstance(dd, Mapping):
        raise ConfigError(f"{given}. Make one: datasets.DatasetDict(train=..., test=...).")
    raise ConfigError(f"{given}, as datasets.load_dataset and load_from_disk give.")


def _check_same_classes(train: HFLoader, valid: HFLoader, train_name: str, valid_name: str) -> None:
    ours, theirs = (_class_names(loader) for loader in (train, valid))
    if ours is not None and theirs is not None and ours != theirs:
        raise DataError(
            f"the labels mean different classes: in the split {train_name!r} {ours}, in {valid_name!r} "
            f"{theirs}. Cast both to one ClassLabel with dd.cast_column(name, feature)."
        )


def _class_names(loader: HFLoader) -> list[str] | None:
    names: list[str] | None = getattr(loader.dataset.features[loader.label], "names", None)
    return names


def _readable(dataset: Dataset, image: str, label: str) -> Dataset:
    """Leave what is needed for a batch: the two columns as PIL images and integers."""
    from datasets.features.image import Image

    feature = dataset.features[image]
    if not feature.decode:
        dataset = dataset.cast_column(image, Image(mode=feature.mode))
    if dataset.format["type"] == "custom":  # set_transform: it may need the other columns
        return dataset
    plain: Dataset = dataset.with_format(None).select_columns([image, label])
    return plain


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


def _as_images(values: Sequence[object], names: Sequence[str], *, flatten: bool) -> Tensor:
    import numpy as np

    arrays: list[NDArray[np.uint8]] = []
    for value, name in zip(values, names, strict=True):
        image = _eight_bit(value, name)
        pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
        arrays.append(pixels if pixels.ndim == 3 else pixels[:, :, None])
    _check_shapes([(one.shape[2], one.shape[0], one.shape[1]) for one in arrays], names)
    channels_first = np.ascontiguousarray(np.stack(arrays).transpose(0, 3, 1, 2))
    # The same float32 division as to_tensor's, so the same bits. By numpy: a batch is too small to be worth waking
    # torch's threads, which take turns with those of the training and cost milliseconds a batch on a busy machine.
    images = torch.from_numpy(np.divide(channels_first, np.float32(255), dtype=np.float32))
    return images.flatten(1) if flatten else images


def _as_labels(values: Sequence[object], names: Sequence[str]) -> Tensor:
    labels = []
    for value, name in zip(values, names, strict=True):
        try:
            labels.append(operator.index(value))  # type: ignore[arg-type]  # what is no integer is what the except is for
        except TypeError as error:
            raise DataError(f"the label of {name} is {str(value)[:80]!r}; expected an integer.") from error
    return torch.tensor(labels, dtype=torch.int64)


def _check_shapes(shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> None:
    for shape, name in zip(shapes, names, strict=True):
        if shape != shapes[0]:
            raise DataError(
                f"the images have different shapes [C, H, W]: {names[0]} has {list(shapes[0])}, {name} has "
                f"{list(shape)}; expected the same for all. Resize them with dd.map, or bring them to one "
                "mode: dd.cast_column(name, datasets.Image(mode='RGB'))."
            )


def _positions(count: int) -> list[str]:
    return [f"example {position} of the batch" for position in range(count)]


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
