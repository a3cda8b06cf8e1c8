"""The batch is a tuple, and is indexed by a name."""

from nntrain import Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        assert batch["words"].shape  # E: No overload variant of "__getitem__" of "tuple" matches argument type "str"  [call-overload]
        return state

# N: Possible overload variants:
# N:     def __getitem__(self, SupportsIndex, /) -> Tensor
# N:     def __getitem__(self, slice[SupportsIndex | None, SupportsIndex | None, SupportsIndex | None], /) -> tuple[Tensor, ...]
# At run time: learner([Wrong()]).fit(1)
# R: TypeError: tuple indices must be integers or slices, not str
