"""A frozen record is written to."""

from nntrain import TrainState
from tests.typing.setting import learner


def wrong(state: TrainState) -> None:
    state.progress.epoch = 3  # E: Property "epoch" defined in "Progress" is read-only  [misc]


# At run time: wrong(learner([]).init())
# R: ValidationError: 1 validation error for Progress epoch Instance is frozen [type=frozen_instance, input_value=3, input_type=int] ...
