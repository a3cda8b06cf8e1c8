"""A loss is a tensor, with a gradient."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner, accuracy
from tests.typing.setting import PAIRS


def loss(preds: Tensor, target: Tensor) -> float:
    return cross_entropy(preds, target).item()


wrong = Learner(nn.Linear(2, 2), DataLoaders(PAIRS, PAIRS), loss, accuracy, SGD, 0.1)  # E: Argument 3 to "Learner" has incompatible type "Callable[[Tensor, Tensor], float]"; expected "Callable[[Never, Never], Tensor]"  [arg-type]


# At run time: wrong.fit(1)
# R: LossError: loss_fn loss returned ...; expected one number as a 0-dim tensor, like loss.mean().
