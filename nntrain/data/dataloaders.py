"""The two data sources of a training: train and valid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor

from nntrain.data.images.hf import hf_loaders
from nntrain.data.images.image_loader import ImageLoader
from nntrain.data.loaders import (
    Loader,
    Source,
    as_loader,
    check_names,
    description_of,
    has_names,
    sizes_of,
    sources,
)
from nntrain.errors import ConfigError, DataError
from nntrain.values.notebook import Cell, html_table
from nntrain.values.record import FrozenMapping

if TYPE_CHECKING:
    from datasets.dataset_dict import DatasetDict

Batch = TypeVar("Batch", covariant=True)  # noqa: PLC0105  (the name that error messages show)


@dataclass(frozen=True, eq=False)
class DataLoaders(Generic[Batch]):
    """Where the batches of the two phases come from.

    Each is anything that can be iterated anew every epoch: a torch `DataLoader`, a list of batches, a loader
    with `batches(key, epoch, start)`. The batch type is inferred from the arguments. `valid` may be several of them by
    name, `{"near": ..., "far": ...}`: an epoch is then a train phase, and an eval phase for each, in that order. With
    None nothing is evaluated.

    Raises:
        ConfigError: one of them is an iterator, which can be read only once, or is no source of batches; or a set has a
            name that is no text of one line, is "train", or has a "/".
        DataError: one of them is empty.

    >>> DataLoaders(train=[(1.0, 2), (3.0, 4)], valid=[(5.0, 6)]).valid
    [(5.0, 6)]
    """

    train: Iterable[Batch] | Loader[Batch]
    valid: Iterable[Batch] | Loader[Batch] | Mapping[str, Iterable[Batch] | Loader[Batch]] | None = None

    def __post_init__(self) -> None:
        _check_source("train", self.train)
        if self.valid is None:
            return
        if not has_names(self.valid) or type(self.valid).__module__.startswith("datasets."):  # a DatasetDict is a dict
            _check_source("valid", self.valid)
            return
        check_names(self.valid)
        for name, source in self.valid.items():
            _check_source(f"valid[{name!r}]", source)
        object.__setattr__(self, "valid", FrozenMapping(self.valid))

    def _repr_html_(self) -> str:
        """Return a table of the loaders, none of which is read, for a notebook."""
        head = ("set", "batches", "batch size", "samples", "what")
        return html_table(type(self).__name__, [_row(source) for source in sources(self)], head)

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
        """Return loaders of (images, labels) from a Hugging Face `DatasetDict` of images.

        Batches are images, float32 in [0, 1], [B, C*H*W] or with `flatten=False` [B, C, H, W], and labels,
        int64 [B], with the bits of `hf_ds_collate_fn`. The last batch may be short. The train split is
        shuffled anew each epoch, in an order that is a function of (key, epoch); the valid split never is.

        Splits and columns are found by these rules, or can be named: `train` is the split 'train' or 'training';
        `valid` the first of 'validation', 'valid', 'dev' and 'val', or the first with one of these words in its name
        ('validation_matched'); else so of 'eval', 'evaluation', 'test' and 'testing'; else the only other split;
        `image` the only column of feature `datasets.Image`; `label` the only `datasets.ClassLabel`, or if there is none
        the only integer column. Each loader's `description` names its split.

        Where the images of a split have one size and take, as uint8, at most `memory_budget` bytes, they are decoded
        once, now (`ResidentLoader`). Both splits share the budget, the train split first; None is half of the free
        memory, 0 allows nothing. Otherwise, and where the dataset has its own transform, which may be random, images
        are decoded each time they are read (`HFLoader`), by `num_workers` processes: None is one fewer than there are
        processors, 8 at most; 0 decodes in this process. The batches are the same in either case. Each loader's
        `description` says which loader was chosen and why.

        Raises:
            ConfigError: `dd` is no DatasetDict, `batch_size` is not a positive integer, `memory_budget` or
                `num_workers` is not an integer of at least 0, or a split or a column is missing, ambiguous or of the
                wrong kind.
            DataError: a split is empty, the splits' labels mean different classes, a stored label is negative or beyond
                the ClassLabel's classes (of integers, those of the train split), or an image that is decoded now, or
                its label, is broken or missing; the error names the row.
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
    """The two splits of an image dataset: what `DataLoaders.from_hf_dd` returns."""

    train: ImageLoader
    valid: ImageLoader = field()


def _row(source: Source[Any]) -> tuple[Cell, ...]:
    """Return what is shown of a loader; of one that no learner would take, why not."""
    name = "train" if source.train else source.name or "valid"
    try:
        sizes = sizes_of(source.items, source.where)
        what = ", ".join(
            str(said) if key == "kind" else f"{key}: {said}"
            for key, said in description_of(as_loader(source.items, source.where)).items()
            if key not in sizes
        )
    except ConfigError as error:
        sizes, what = {}, str(error)
    return name, sizes.get("batches"), sizes.get("batch_size"), sizes.get("samples"), what


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
        without = "" if name != "valid" else " To train without evaluation, give valid=None."
        raise DataError(f"{given} of no batches; expected at least one. Check what it was made from.{without}")


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
