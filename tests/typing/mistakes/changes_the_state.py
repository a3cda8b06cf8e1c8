"""The state is written to."""

from nntrain import TrainState
from tests.typing.setting import learner


def wrong(state: TrainState) -> None:
    state.lr_scale = 0.5  # E: Property "lr_scale" defined in "TrainState" is read-only  [misc]


# At run time: wrong(learner([]).init())
# R: ValidationError: 1 validation error for TrainState lr_scale Instance is frozen [type=frozen_instance, input_value=0.5, input_type=float] ...
