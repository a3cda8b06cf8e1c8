"""What is saved is a state."""

from nntrain import Outcome
from nntrain.checkpoint import save
from tests.typing.setting import learner


def wrong(outcome: Outcome) -> object:
    return save(outcome, "state.safetensors")  # E: Argument 1 to "save" has incompatible type "Completed | Cancelled"; expected "TrainState"  [arg-type]


# At run time: wrong(learner([]).fit(1, print_stats=False))
# R: ConfigError: save takes a TrainState, like outcome.state; got Completed.
