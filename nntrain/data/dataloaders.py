"""The two data sources of a training: what it learns from, and what it is judged on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor

from nntrain.data.images.hf import hf_loaders
from nntrain.data.images.image_loader import ImageLoader
from nntrain.data.loaders import Loader
from nntrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets.dataset_dict import DatasetDict

Batch = TypeVar("Batch", covariant=True)  # noqa: PLC0105  (the name that readers of an error message know)


@dataclass(frozen=True, eq=False)
class DataLoaders(Generic[Batch]):
    """Where the batches of the two phases come from.

    Each is anything that can be iterated again every epoch: a torch `DataLoader`, a list of batches, a loader
    with `batches(key, epoch, start)`. The batch type is inferred from the arguments.

    Raises:
        ConfigError: one of them is an iterator that can be read only once, or is no source of batches at all.
        DataError: one of them is empty.

    >>> DataLoaders(train=[(1.0, 2), (3.0, 4)], valid=[(5.0, 6)]).valid
    [(5.0, 6)]
    """

    train: Iterable[Batch] | Loader[Batch]
    valid: Iterable[Batch] | Loader[Batch]

    def __post_init__(self) -> None:
        _check_source("train", self.train)
        _check_source("valid", self.valid)

    @staticmethod
    def from_hf_dd(
        dd: DatasetDict,
        batch_size: int = 1024,
        *,
        train: str | None = None,
        valid: str | None = None,
        image: str | None = None,
        label: str | None = None,
        flatten: bool = True,
        shuffle: bool = True,
        memory_budget: int | None = None,
        num_workers: int | None = None,
    ) -> ImageLoaders:
        """Make loaders of (images, labels) from a Hugging Face `DatasetDict` of images.

        Batches are images, float32 in [0, 1], [B, C*H*W] or with `flatten=False` [B, C, H, W], and labels,
        int64 [B], with the bits of `hf_ds_collate_fn`. The last batch may be short. The train split is
        shuffled anew each epoch, by an order that is a function of (key, epoch); the valid split never is.

        Splits and columns are found, and each can be named instead: `train` is the split 'train'; `valid` the
        first of 'validation', 'valid', 'val', 'test', or the only other split; `image` the only column of
        feature `datasets.Image`; `label` the only `datasets.ClassLabel`, or if there is none the only integer
        column.

        Where the images of a split have one size and take, as uint8, no more than `memory_budget` bytes, they are
        decoded here, once (`ResidentLoader`). Both splits share the budget, the train split first; None is half of the
        memory that is free, 0 allows nothing. Otherwise, and where the dataset has a transform of its own, which may
        answer differently each time, images are decoded whenever they are read (`HFLoader`), by `num_workers`
        processes: None is one fewer than there are processors, 8 at most, and 0 decodes in this one. The batches are
        the same in either case. Each loader's `description` says which way was taken and why.

        Raises:
            ConfigError: `dd` is no DatasetDict, `batch_size` is not a positive integer, `memory_budget` or
                `num_workers` is a negative number or none, or a split or a column is missing, ambiguous or of the
                wrong kind.
            DataError: a split is empty, the splits' labels mean different classes, or an image that is decoded here is
                broken or missing, or its label is; the error names the row.
        """
        train_loader, valid_loader = hf_loaders(
            dd,
            batch_size,
            train=train,
            valid=valid,
            image=image,
            label=label,
            flatten=flatten,
            shuffle=shuffle,
            memory_budget=memory_budget,
            num_workers=num_workers,
        )
        return ImageLoaders(train_loader, valid_loader)


@dataclass(frozen=True, eq=False)
class ImageLoaders(DataLoaders[tuple[Tensor, Tensor]]):
    """The two splits of an image dataset: what `DataLoaders.from_hf_dd` gives."""

    train: ImageLoader
    valid: ImageLoader


def _check_source(name: str, source: object) -> None:
    given = f"DataLoaders: {name} is a {type(source).__name__}"
    if isinstance(source, Iterator):
        raise ConfigError(
            f"{given}, which can be read only once, but every epoch reads it from the beginning. "
            f"Pass a list of its batches, list({name}), or a torch DataLoader."
        )
    is_loader = callable(getattr(source, "batches", None))
    if isinstance(source, (str, bytes, Mapping)) or not (is_loader or _can_be_iterated(source)):
        raise ConfigError(
            f"{given}; expected something that gives batches: a torch DataLoader, a list of batches, or a "
            "loader with batches(key, epoch, start). For a DatasetDict use DataLoaders.from_hf_dd(dd)."
        )
    if _length(source) == 0:
        raise DataError(f"{given} of no batches; expected at least one. Check what it was made from.")


def _can_be_iterated(source: object) -> bool:
    # Not iter(source): that starts a DataLoader's worker processes.
    return isinstance(source, Iterable) or hasattr(source, "__getitem__")


def _length(source: object) -> int | None:
    if not isinstance(source, Sized):
        return None
    try:
        return len(source)
    except TypeError:
        return None  # a DataLoader over an IterableDataset has __len__, and raises there
