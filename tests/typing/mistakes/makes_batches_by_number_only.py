"""A loader's batches are a function of (key, epoch, start)."""

from collections.abc import Iterator

from nntrain import DataLoaders
from tests.typing.setting import PAIRS, Batch


class Loads:
    def batches(self, epoch: int) -> Iterator[Batch]:
        yield from PAIRS


DataLoaders(Loads(), PAIRS)  # E: Argument 1 to "DataLoaders" has incompatible type "Loads"; expected "Iterable[tuple[Tensor, Tensor]] | Loader[tuple[Tensor, Tensor]]"  [arg-type]

# N: Following member(s) of "Loads" have conflicts:
# N:     Expected:
# N:         def batches(self, key: Key, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]
# N:     Got:
# N:         def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]
