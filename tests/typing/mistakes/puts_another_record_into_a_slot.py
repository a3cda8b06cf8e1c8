"""What is put into a slot is what it was made for."""

from nntrain import TrainState
from tests.typing.setting import SEEN, learner


def wrong(state: TrainState) -> TrainState:
    return state.put(SEEN, 3)  # E: Cannot infer value of type parameter "RecordT" of "put" of "TrainState"  [misc]


# At run time: wrong(learner([]).init())
# R: ConfigError: Slot 'mistakes.seen' keeps a Seen; got 3 (int).
