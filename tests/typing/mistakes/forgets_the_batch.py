"""One argument too few, before a batch."""

from nntrain import Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def before_batch(self, state: TrainState) -> TrainState:  # E: Signature of "before_batch" incompatible with supertype "nntrain.subscribers.protocol.Subscriber"  [override]
        return state

# N:      Superclass:
# N:          def before_batch(self, state: TrainState, batch: tuple[Tensor, Tensor]) -> TrainState | CancelBatch | CancelEpoch | CancelFit
# N:      Subclass:
# N:          def before_batch(self, state: TrainState) -> TrainState
# At run time: learner([Wrong()])
# R: SubscriberError: Wrong.before_batch cannot be called with (state, batch): too many positional arguments. Expected before_batch(self, state, batch).
