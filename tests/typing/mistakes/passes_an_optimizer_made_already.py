"""A learner is given what makes an optimizer."""

from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner, accuracy
from tests.typing.setting import PAIRS

MODEL = nn.Linear(2, 2)
Learner(MODEL, DataLoaders(PAIRS, PAIRS), cross_entropy, accuracy, SGD(MODEL.parameters()), 0.1)  # E: Argument 5 to "Learner" has incompatible type "SGD"; expected "OptimizerFactory"  [arg-type]

# N: "SGD" is missing following "OptimizerFactory" protocol member:
# N:     __call__
# N: "OptimizerFactory.__call__" has type "def __call__(self, Any, /, *, lr: float) -> Optimizer"
# At run time: importing this
# R: ConfigError: optim_class is an optimizer made already, over other parameters. Pass what makes one: SGD, or functools.partial(SGD, ...).
