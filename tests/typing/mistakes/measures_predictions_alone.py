"""A metric takes predictions and target."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner
from tests.typing.setting import PAIRS


def sharpness(preds: Tensor) -> Tensor:
    return preds.softmax(1).amax(1).mean()


wrong = Learner(nn.Linear(2, 2), DataLoaders(PAIRS, PAIRS), cross_entropy, sharpness, SGD, 0.1)  # E: Argument 4 to "Learner" has incompatible type "Callable[[Tensor], Tensor]"; expected "Callable[[Never, Never], Tensor] | WholePhaseMetric | Mapping[str, Callable[[Never, Never], Tensor] | WholePhaseMetric]"  [arg-type]


# At run time: wrong.fit(1)
# R: ConfigError: metric metric (sharpness) cannot be called with (preds, target): too many positional arguments.
