"""What the loaders of image datasets share: the order, the numbering of batches, and the scaling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Self

import torch
from torch import Tensor

from nntrain.data.dividing import Part, taken_rows
from nntrain.errors import ConfigError
from nntrain.ranks.world import SINGLE, World
from nntrain.values.key import Key

CPU: Final = torch.device("cpu")
Span = tuple[int, int]
"""From which place in an epoch's order up to which."""


class ImageLoader(ABC):
    """Batches of (images, labels) of one split, in an order that is a function of (key, epoch).

    Images are float32 in [0, 1], [B, C*H*W] or with `flatten=False` [B, C, H, W]; labels int64 [B]. Each batch's
    tensors are new. Batch k of an epoch is read without those before it; the last batch may be short. Plain iteration
    reads epoch 0 of `Key(seed=0)`.
    """

    batch_size: int
    flatten: bool
    shuffle: bool
    split_name: str | None
    """The name of the split in its `DatasetDict`, where it is known."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many rows the split has."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many classes the labels have."""

    @property
    @abstractmethod
    def description(self) -> Mapping[str, object]:
        """Which kind of loader this is, and why it was chosen: plain JSON values, for a log."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Return a loader of the same batches on `device`."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch from number `start` on.

        Raises:
            ConfigError: `start` is not within 0 to `len(self)`.
            DataError: an image is broken or has another shape than the others; the error names the row.
        """
        self._check_start(start)
        return self._read(key, epoch, start, [span for span, _ in self._spans(start, SINGLE)])

    def parts(self, key: Key, epoch: int, start: int, world: World) -> Iterator[Part[tuple[Tensor, Tensor]]]:
        """Iterate over a rank's parts of the same batches; only its rows are read. Raises as `batches` does."""
        self._check_start(start)
        taken = self._spans(start, world)
        made = self._read(key, epoch, start, [span for span, _ in taken])
        return (Part(batch, *sizes) for batch, (_, sizes) in zip(made, taken, strict=False))

    def _check_start(self, start: int) -> None:
        if not 0 <= start <= len(self):
            raise ConfigError(
                f"batch {start} was asked for, of an epoch of {len(self)} batches of {self.batch_size}; "
                f"expected 0 to {len(self)}. A state of a training on other data, or with another batch_size, "
                "cannot go on here."
            )

    def _spans(self, start: int, world: World) -> list[tuple[Span, tuple[int, int]]]:
        """Return a rank's span of each batch, how many rows of it count, and how many the batch has."""
        found = []
        for first in range(start * self.batch_size, self.samples, self.batch_size):
            total = min(self.batch_size, self.samples - first)
            begin, end, rows = taken_rows(total, world)
            found.append(((first + begin, first + end), (rows, total)))
        return found

    @abstractmethod
    def _read(self, key: Key, epoch: int, start: int, spans: Sequence[Span]) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over (images, labels) of the batches from `start` on: of each, a span of the epoch's order."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return math.ceil(self.samples / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches(Key(seed=0), 0, 0)

    def order(self, key: Key, epoch: int) -> Tensor:
        """Return the rows of the split in the order of this epoch: int64 [N]."""
        if not self.shuffle:
            return torch.arange(self.samples, device="cpu")
        generator = torch.Generator("cpu").manual_seed(key.fold_in(epoch).bits)
        return torch.randperm(self.samples, generator=generator, dtype=torch.int64, device="cpu")

    def _named(self) -> Mapping[str, object]:
        return {} if self.split_name is None else {"split": self.split_name}

    def _scale(self, pixels: Tensor) -> Tensor:
        """Divide intensities, uint8 [B, C, H, W], by 255 as `to_tensor` does, on their device."""
        if pixels.device.type == "cpu":
            import numpy as np

            # The same float32 division as to_tensor's, so the same bits. By numpy: torch would use threads, which do
            # not pay for so small a batch and compete with the training's: on a busy machine they cost milliseconds a
            # batch.
            images = torch.from_numpy(np.divide(pixels.numpy(), np.float32(255), dtype=np.float32))
        else:
            # On CUDA torch multiplies by the reciprocal of a number, which rounds differently; by a tensor it divides.
            # The tensor is made on the device, since a copy to it would wait.
            images = pixels.to(torch.float32).div_(torch.full((), 255.0, dtype=torch.float32, device=pixels.device))
        return images.flatten(1) if self.flatten else images
