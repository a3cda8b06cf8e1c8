"""`Divided`: the loader of a rank's parts of another loader's batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from nntrain.data.dividing import Divisible, Part, makes_parts, part_of
from nntrain.data.loaders import Loader, description_of
from nntrain.ranks.world import World
from nntrain.values.key import Key

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Divided(Generic[Batch]):
    """A loader of a rank's parts of another's batches."""

    loader: Loader[Batch]
    world: World

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Part[Batch]]:
        """Yield this rank's part of each batch from `start` on."""
        if makes_parts(self.loader):
            return cast("Divisible[Batch]", self.loader).parts(key, epoch, start, self.world)
        return (part_of(batch, self.world) for batch in self.loader.batches(key, epoch, start))

    @property
    def description(self) -> Mapping[str, object]:
        """What the run's log says of the loader, and how its batches are divided."""
        made = "made apart" if makes_parts(self.loader) else "cut from whole batches"
        return {**description_of(self.loader), "parts": made}


def undivided(loader: Any) -> Any:
    """Return the loader whose batches are divided, where they are."""
    return loader.loader if isinstance(loader, Divided) else loader
