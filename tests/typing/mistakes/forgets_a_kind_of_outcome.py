"""A match that is not exhaustive."""

from typing import assert_never

from nntrain import Completed, EarlyStopping, Outcome, TrainState
from tests.typing.setting import learner


def wrong(outcome: Outcome) -> TrainState:
    match outcome:
        case Completed(state=state):
            return state
        case _:
            assert_never(outcome)  # E: Argument 1 to "assert_never" has incompatible type "Cancelled"; expected "Never"  [arg-type]


# At run time: wrong(learner([EarlyStopping(patience=1, min_delta=9.0)]).fit(3, print_stats=False))
# R: AssertionError: Expected code to be unreachable, but got: Cancelled(...
