"""The history is a tuple."""

from nntrain import TrainState
from tests.typing.setting import learner


def wrong(state: TrainState) -> None:
    state.history.append(state.history[0])  # E: "History" has no attribute "append"  [attr-defined]


# At run time: wrong(learner([]).fit(1, print_stats=False).state)
# R: AttributeError: 'History' object has no attribute 'append'
