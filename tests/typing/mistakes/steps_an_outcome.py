"""A step takes a state: outcome.state."""

from nntrain import Learner, Outcome, fit_step
from tests.typing.setting import Batch, learner


def wrong(learner: Learner[Batch], outcome: Outcome) -> Outcome:
    return fit_step(learner, outcome, 1)  # E: Argument 2 to "fit_step" has incompatible type "Completed | Cancelled"; expected "TrainState"  [arg-type]


# At run time: wrong(learner([]), learner([]).fit(1, print_stats=False))
# R: ConfigError: Got a Completed; a step takes its state: outcome.state.
