"""A schedule is told how many steps it takes."""

from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner, accuracy
from nntrain.schedules import cosine
from tests.typing.setting import PAIRS

Learner(nn.Linear(2, 2), DataLoaders(PAIRS, PAIRS), cross_entropy, accuracy, SGD, cosine(0.1))  # E: Missing named argument "steps" for "cosine"  [call-arg]
# N: "cosine" defined in "nntrain.schedules.rates"


# At run time: importing this
# R: ConfigError: cosine needs steps: over how many optimizer steps it goes. It is a function of the step alone, and cannot ask the fit, which has epochs times the batches of an epoch: steps=epochs * len(batches). With accumulate(n), an epoch has a step for every n batches begun.
