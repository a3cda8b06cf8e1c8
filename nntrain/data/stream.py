"""`Stream`: a loader read batch after batch, by its position in the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic

import torch

from nntrain.data.divided import Divided, undivided
from nntrain.data.dividing import part_of
from nntrain.data.loaders import Batch, Loader, SequenceLoader, rows_of
from nntrain.values.key import Key
from nntrain.values.log_event import Note
from nntrain.values.progress import Progress
from nntrain.values.sums import Sums
from nntrain.values.trees import first_length


class Stream(Generic[Batch]):
    """One loader's running iterator: kept while batches are asked for in order, else started again.

    While a batch is made, torch's generator is seeded by (key, epoch, batch), so that an augmentation draws the same
    numbers each time. The caller restores the generator.
    """

    def __init__(self, loader: Loader[Batch], fold: int, name: str = "the loader") -> None:
        self.loader = loader
        self.name = name
        self.fold = fold
        self._ready: Sequence[Batch] | None = None
        """The batches, where they are there already: a list or a tuple."""
        whole = undivided(loader)
        if isinstance(whole, SequenceLoader) and type(whole.items) in {list, tuple}:
            self._ready = whole.items
        given: Any = loader
        self._world = given.world if isinstance(given, Divided) else None
        """Of which rank of how many the parts are, where batches are divided."""
        self._position: tuple[Key, int, int] | None = None
        """The batch that the iterator makes next."""
        self._end: tuple[Key, int, int] | None = None
        """The position after an epoch's last batch, once reached: asking for it again restarts no iterator."""
        self._iterator: Iterator[Any] = iter(())

    def batch(self, key: Key, epoch: int, index: int) -> tuple[Batch] | None:
        """Return batch `index` of `epoch` in a 1-tuple, or None past the last."""
        if self._ready is not None:
            if index >= len(self._ready):
                return None
            found: Any = self._ready[index]
            if self._world is not None:
                found = part_of(found, self._world)
            return (found,)
        end, self._end = self._end, None
        if end == (key, epoch, index):
            return None
        torch.default_generator.manual_seed(key.derived(self.fold, epoch, index))
        if self._position != (key, epoch, index):
            self.close()
            self._iterator = iter(self.loader.batches(key.fold_in(self.fold), epoch, index))
        self._position = None
        try:
            batch: Batch = next(self._iterator)
        except StopIteration:
            self.close()
            self._end = (key, epoch, index)
            return None
        self._position = (key, epoch, index + 1)
        return (batch,)

    def check_place(self, place: Progress, sums: Sums, samples: int, warn: Callable[[Note], None]) -> None:
        """Warn where a state that was made elsewhere has other samples behind it than the loader has there.

        `samples` are those of the batch at its `place`: where they are not the rows that it should have, samples are
        not counted by rows, and nothing can be told.
        """
        behind, after = self._rows_before(place.batch), self._rows_before(place.batch + 1)
        if sums.batches != place.batch or behind is None or after != behind + samples or behind == place.samples:
            return
        text = (
            f"The state stands amid a phase ({place.phase}, epoch {place.epoch}) with {place.samples} samples in "
            f"{place.batch} batches behind it; in the learner's data that many batches have {behind}. With other data, "
            f"or another batch size, some samples are taken twice in this phase, or not at all. Go on with the data "
            f"that it was trained on, and change them between two epochs."
        )
        warn(Note("data.changed", text))

    def _rows_before(self, batch: int) -> int | None:
        """Return how many rows the batches before a batch of that number have, None where that is not known."""
        if self._ready is not None:
            lengths = [first_length(item) for item in self._ready[:batch]]
            return None if None in lengths else sum(length or 0 for length in lengths)
        rows = rows_of(undivided(self.loader))
        return None if rows is None else rows.before(batch)

    def close(self) -> None:
        """Close the running iterator and its workers."""
        close = getattr(self._iterator, "close", None)
        self._iterator = iter(())
        self._position = None
        if close is not None:
            close()
