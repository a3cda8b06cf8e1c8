"""@on: the function does not take what the event gives."""

from nntrain import TrainState, on
from tests.typing.setting import learner


@on("before_batch")  # E: Argument 1 has incompatible type "Callable[[TrainState], TrainState]"; expected "Callable[[TrainState, Never], TrainState | CancelBatch | CancelEpoch | CancelFit]"  [arg-type]
def wrong(state: TrainState) -> TrainState:
    return state


# At run time: learner([wrong])
# R: SubscriberError: wrong.before_batch cannot be called with (state, batch): too many positional arguments. Expected before_batch(self, state, batch).
