"""One argument too few."""

from nntrain import Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def after_batch(self, state: TrainState, batch: Batch) -> TrainState:  # E: Signature of "after_batch" incompatible with supertype "nntrain.subscribers.protocol.Subscriber"  [override]
        return state

# N:      Superclass:
# N:          def after_batch(self, state: TrainState, batch: tuple[Tensor, Tensor], output: BatchOutput[object]) -> TrainState | CancelBatch | CancelEpoch | CancelFit
# N:      Subclass:
# N:          def after_batch(self, state: TrainState, batch: tuple[Tensor, Tensor]) -> TrainState
# At run time: learner([Wrong()])
# R: SubscriberError: Wrong.after_batch cannot be called with (state, batch, output): too many positional arguments. Expected after_batch(self, state, batch, output).
