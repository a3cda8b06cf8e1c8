"""A state's weights are read, not written."""

import torch
from torch import Tensor

from nntrain import TrainState
from tests.typing.setting import learner


def wrong(state: TrainState, weight: Tensor) -> None:
    state.params["weight"] = weight  # E: Unsupported target for indexed assignment ("Mapping[str, Tensor]")  [index]


# At run time: wrong(learner([]).init(), torch.zeros(2, 2))
# R: TypeError: 'TensorMap' object does not support item assignment
