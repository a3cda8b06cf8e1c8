"""The model comes before the data."""

from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner, accuracy
from tests.typing.setting import PAIRS

Learner(DataLoaders(PAIRS, PAIRS), nn.Linear(2, 2), cross_entropy, accuracy, SGD, 0.1)  # E: Argument 1 to "Learner" has incompatible type "DataLoaders[tuple[Tensor, Tensor]]"; expected Module | Callable[[], Module]  [arg-type]  # E: Argument 2 to "Learner" has incompatible type "Linear"; expected "TrainValid[Never]"  [arg-type]


# At run time: importing this
# R: ConfigError: model is DataLoaders(train=[(tensor([[1., 1.], [1., 1.]]), tensor([0, 1]))], valid=[(tens; expected a torch.nn.Module, or a function of no arguments that makes one.
