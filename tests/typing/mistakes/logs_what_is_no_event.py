"""A log takes events, and no text."""

from nntrain import TrainState
from tests.typing.setting import learner


def wrong(state: TrainState) -> TrainState:
    return state.log("mixed up")  # E: Argument 1 to "log" of "TrainState" has incompatible type "str"; expected "LogEvent"  [arg-type]


# At run time: wrong(learner([]).init())
# R: ConfigError: state.log takes a LogEvent; got 'mixed up' (str). Make a class of yours: class Mixup(LogEvent, frozen=True): event: Literal["acme.mixup"] = "acme.mixup"; alpha: float.
