"""A subscriber of dicts in a learner of tuples."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner, Subscriber, accuracy
from tests.typing.setting import Batch


class Words(Subscriber[dict[str, Tensor]]):
    pass


def wrong(dls: DataLoaders[Batch]) -> None:
    Learner(nn.Linear(2, 2), dls, cross_entropy, accuracy, SGD, 0.1, [Subscriber[Batch](), Words()])  # E: List item 1 has incompatible type "Words"; expected "Listening[tuple[Tensor, Tensor], Any]"  [list-item]

# N: Following member(s) of "Words" have conflicts:
# N:     Expected:
# N:         def after_batch(self, state: TrainState, batch: tuple[Tensor, Tensor], output: BatchOutput[Any]) -> TrainState | CancelBatch | CancelEpoch | CancelFit
# N:     Got:
# N:         def after_batch(self, state: TrainState, batch: dict[str, Tensor], output: BatchOutput[object]) -> TrainState | CancelBatch | CancelEpoch | CancelFit
# N:     Expected:
# N:         def before_batch(self, state: TrainState, batch: tuple[Tensor, Tensor]) -> TrainState | CancelBatch | CancelEpoch | CancelFit
# N:     Got:
# N:         def before_batch(self, state: TrainState, batch: dict[str, Tensor]) -> TrainState | CancelBatch | CancelEpoch | CancelFit
