"""`Stream`: a loader read batch after batch, by its position in the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic

import torch

from nntrain.data.loaders import Batch, Loader, SequenceLoader
from nntrain.values.key import Key


class Stream(Generic[Batch]):
    """One loader's running iterator: kept while batches are asked for in order, else started again.

    While a batch is made, torch's generator is seeded by (key, epoch, batch), so that an augmentation draws the same
    numbers each time. The caller restores the generator.
    """

    def __init__(self, loader: Loader[Batch], fold: int) -> None:
        self.loader = loader
        self._fold = fold
        self._ready: Sequence[Batch] | None = None
        """The batches, where they are there already: a list or a tuple."""
        if isinstance(loader, SequenceLoader) and type(loader.items) in {list, tuple}:
            self._ready = loader.items
        self._position: tuple[Key, int, int] | None = None
        """The batch that the iterator makes next."""
        self._end: tuple[Key, int, int] | None = None
        """The position after an epoch's last batch, once reached: asking for it again restarts no iterator."""
        self._iterator: Iterator[Any] = iter(())

    def batch(self, key: Key, epoch: int, index: int) -> tuple[Batch] | None:
        """Return batch `index` of `epoch` in a 1-tuple, or None past the last."""
        if self._ready is not None:
            return (self._ready[index],) if index < len(self._ready) else None
        end, self._end = self._end, None
        if end == (key, epoch, index):
            return None
        torch.default_generator.manual_seed(key.derived(self._fold, epoch, index))
        if self._position != (key, epoch, index):
            self.close()
            self._iterator = iter(self.loader.batches(key.fold_in(self._fold), epoch, index))
        self._position = None
        try:
            batch: Batch = next(self._iterator)
        except StopIteration:
            self.close()
            self._end = (key, epoch, index)
            return None
        self._position = (key, epoch, index + 1)
        return (batch,)

    def close(self) -> None:
        """Close the running iterator and its workers."""
        close = getattr(self._iterator, "close", None)
        self._iterator = iter(())
        self._position = None
        if close is not None:
            close()
