"""batch_step takes a batch of the learner's kind."""

from nntrain import Learner, Outcome, TrainState, batch_step
from tests.typing.setting import Batch, learner


def wrong(learner: Learner[Batch], state: TrainState) -> Outcome:
    return batch_step(learner, state, "a batch")  # E: Cannot infer value of type parameter "Batch" of "batch_step"  [misc]


# At run time: wrong(learner([]), learner([]).init())
# R: DataError: A batch is a tuple, list, mapping, dataclass or attrs class of inputs and a target; got str. For anything else pass Learner(..., unpack=...).
