"""One split of a `datasets.DatasetDict`: reads any rows of its image and label columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from nntrain.data.images.decoding import Decoder, cannot_decode
from nntrain.data.images.encoded import encoded_images
from nntrain.data.images.reference import check_shapes, labels_of, pixels_of, quoted
from nntrain.errors import DataError, add_note

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets.arrow_dataset import Dataset
    from numpy.typing import NDArray

Pixels = tuple[Tensor, Tensor]
"""Intensities, uint8 [B, C, H, W], and labels, int64 [B]."""

OTHER_COLUMNS: Final = (
    "from_hf_dd reads PIL images and integers, under the names of the dataset's own columns: have the transform return "
    "those; or, where it makes tensors, pass torch DataLoaders with a collate_fn that stacks them, "
    "DataLoaders(DataLoader(dd['train'], batch_size, shuffle=True, collate_fn=...), ...)."
)
"""The way out for a dataset whose transform makes something else."""


@dataclass(frozen=True)
class Split:
    """The image and the label column of a dataset.

    A transform of the dataset (`set_transform`) is applied, and must return a PIL image; any other format
    (`set_format`) is ignored. The image column is decoded, even where it is cast not to be.
    """

    dataset: Dataset = field(repr=False)
    image: str
    label: str

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def transformed(self) -> bool:
        """Whether the dataset has its own transform, which may be random."""
        return bool(self.dataset.format["type"] == "custom")

    @cached_property
    def classes(self) -> int:
        """How many classes there are: the ClassLabel's, or the greatest integer plus one."""
        known: int | None = getattr(self.dataset.features[self.label], "num_classes", None)
        return known if known is not None else 1 + int(self.labels().max())

    @property
    def class_names(self) -> list[str] | None:
        """The classes by label, where the column is a ClassLabel."""
        names: list[str] | None = getattr(self.dataset.features[self.label], "names", None)
        return names

    def labels(self) -> Tensor:
        """Return all labels as they are stored: int64 [N].

        Raises:
            DataError: one is missing; the error names its row.
        """
        # Without the image column: the rows of a selected or shuffled dataset are copied.
        values = self.dataset.with_format("arrow").select_columns([self.label])[:][self.label]
        if values.null_count or values.type == "uint64":
            return labels_of(values.to_pylist(), [f"row {row}" for row in range(len(self))])
        import numpy as np

        return torch.from_numpy(values.to_numpy().astype(np.int64))

    def pixels(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the images of the rows from `start` to before `stop`: uint8 [C, H, W] each, not to be written to.

        Raises:
            DataError: one is missing or cannot be decoded; the error names its row.
        """
        for row, image in enumerate(encoded_images(self._arrow[start:stop][self.image]), start):
            yield self._decoder.pixels(image, row, self.image)

    def read(self, rows: Sequence[int]) -> Pixels:
        """Return a batch: intensities and labels of these rows, in this order.

        Raises:
            DataError: an image cannot be decoded, one differs in shape from the first, a label is not an integer, or
                the dataset's transform removed a column; the error names the row.
        """
        names = [f"row {row}" for row in rows]
        if self.transformed:
            columns = self._columns(rows)
            arrays = [
                self._transformed_pixels(value, name) for value, name in zip(columns[self.image], names, strict=True)
            ]
            return _stack(arrays, names), labels_of(columns[self.label], names)
        # datasets returns each row as its own chunk, which costs more than copying the bytes of its image.
        found: pa.Table = self._arrow[list(rows)]
        table = found.combine_chunks()
        arrays = [
            self._decoder.pixels(image, row, self.image)
            for row, image in zip(rows, encoded_images(table[self.image]), strict=True)
        ]
        return _stack(arrays, names), labels_of(table[self.label].to_pylist(), names)

    def _transformed_pixels(self, value: object, name: str) -> NDArray[np.uint8]:
        try:
            return pixels_of(value, name).transpose(2, 0, 1)
        except DataError as error:
            raise DataError(f"{error} {OTHER_COLUMNS}") from error

    def _columns(self, rows: Sequence[int]) -> dict[str, list[object]]:
        """Return the columns of rows, after the dataset's transform."""
        try:
            columns: dict[str, list[object]] = self.dataset[list(rows)]
        except Exception as error:
            self._blame(rows, error)
            raise
        for column in (self.image, self.label):
            if column not in columns:
                raise DataError(
                    f"the dataset's transform left no column {column!r}, only {quoted(columns)}. {OTHER_COLUMNS}"
                )
        return columns

    def _blame(self, rows: Sequence[int], error: Exception) -> None:
        """Raise a `DataError` if an image cannot be decoded; else note on which row the transform fails."""
        plain = self.dataset.with_format(None)
        for row in rows:
            try:
                plain[row]
            except Exception as undecodable:  # noqa: BLE001 - each of PIL's plugins raises what it likes
                raise cannot_decode(row, self.image, undecodable) from error
        for row in rows:
            try:
                self.dataset[[row]]
            except Exception:  # noqa: BLE001 - whatever the transform raises: only the row is asked for
                add_note(error, f"The dataset's transform raised this for row {row}.")
                return
        add_note(error, f"The dataset's transform raised this for the rows {quoted(rows)} together.")

    @cached_property
    def _arrow(self) -> Dataset:
        # datasets looks up the rows of a selected, sorted or shuffled dataset; slices of any other are views.
        found: Dataset = self.dataset.with_format("arrow", columns=[self.image, self.label])
        return found

    @cached_property
    def _decoder(self) -> Decoder:
        from datasets.features.image import Image

        # The size of files that are stored as paths is not known; few are smaller than this.
        stored = max(self.dataset.data.nbytes, 2048 * len(self))
        return Decoder(Image(mode=self.dataset.features[self.image].mode), stored)


def _stack(arrays: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> Tensor:
    import numpy as np

    check_shapes([one.shape for one in arrays], names)
    return torch.from_numpy(np.ascontiguousarray(np.stack(arrays)))
