"""A slot is a key, its name is not."""

from nntrain import TrainState
from tests.typing.setting import learner


def wrong(state: TrainState) -> object:
    return state.get("mistakes.seen")  # E: Argument 1 to "get" of "TrainState" has incompatible type "str"; expected "Slot[Never]"  [arg-type]


# At run time: wrong(learner([]).init())
# R: ConfigError: state.get takes the Slot that the record is kept under; got 'mistakes.seen' (str).
