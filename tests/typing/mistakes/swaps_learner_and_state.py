"""A step takes the learner first."""

from nntrain import Learner, Outcome, TrainState, fit_step
from tests.typing.setting import Batch, learner


def wrong(learner: Learner[Batch], state: TrainState) -> Outcome:
    return fit_step(state, learner, 1)  # E: Argument 1 to "fit_step" has incompatible type "TrainState"; expected "Learner[Never, Any]"  [arg-type]  # E: Argument 2 to "fit_step" has incompatible type "Learner[tuple[Tensor, Tensor], Any]"; expected "TrainState"  [arg-type]


# At run time: wrong(learner([]), learner([]).init())
# R: ConfigError: Got Learner; a step takes a TrainState, from learner.init() or outcome.state.
