"""A schedule is given the step."""

from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner, accuracy
from tests.typing.setting import PAIRS


def schedule() -> float:
    return 0.1


Learner(nn.Linear(2, 2), DataLoaders(PAIRS, PAIRS), cross_entropy, accuracy, SGD, schedule)  # E: Argument 6 to "Learner" has incompatible type "Callable[[], float]"; expected "float | Callable[[int], float]"  [arg-type]


# At run time: importing this
# R: ConfigError: lr schedule cannot be called with (step): too many positional arguments; expected a finite number of 0 or more, or a function of the step.
