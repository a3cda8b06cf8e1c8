"""A learning rate is a number, or a function of the step."""

from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner, accuracy
from tests.typing.setting import PAIRS

Learner(nn.Linear(2, 2), DataLoaders(PAIRS, PAIRS), cross_entropy, accuracy, SGD, "0.1")  # E: Argument 6 to "Learner" has incompatible type "str"; expected "float | Callable[[int], float]"  [arg-type]


# At run time: importing this
# R: ConfigError: lr is '0.1'; expected a finite number of 0 or more, or a function of the step.
