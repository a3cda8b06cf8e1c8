"""A subscriber of dicts in a learner of tuples."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner, Subscriber, accuracy
from tests.typing.setting import Batch


class Words(Subscriber[dict[str, Tensor]]):
    pass


def wrong(dls: DataLoaders[Batch]) -> None:
    Learner(nn.Linear(2, 2), dls, cross_entropy, accuracy, SGD, 0.1, [Subscriber[Batch](), Words()])  # E: List item 1 has incompatible type "Words"; expected "Listening[tuple[Tensor, Tensor]]"  [list-item]
