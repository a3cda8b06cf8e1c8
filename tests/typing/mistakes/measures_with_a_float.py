"""A metric gives a tensor: a float waits for the device in each batch."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner
from tests.typing.setting import PAIRS


def error(preds: Tensor, target: Tensor) -> float:
    return (preds - target).abs().mean().item()


Learner(nn.Linear(2, 2), DataLoaders(PAIRS, PAIRS), cross_entropy, error, SGD, 0.1)  # E: Argument 4 to "Learner" has incompatible type "Callable[[Tensor, Tensor], float]"; expected "Callable[[Never, Never], Tensor] | WholePhaseMetric | Mapping[str, Callable[[Never, Never], Tensor] | WholePhaseMetric]"  [arg-type]
