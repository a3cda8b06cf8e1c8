"""One argument too many."""

from nntrain import Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def after_epoch(self, state: TrainState, epoch: int) -> TrainState:  # E: Signature of "after_epoch" incompatible with supertype "nntrain.subscribers.protocol.Subscriber"  [override]
        return state

# N:      Superclass:
# N:          def after_epoch(self, state: TrainState) -> TrainState | CancelEpoch | CancelFit
# N:      Subclass:
# N:          def after_epoch(self, state: TrainState, epoch: int) -> TrainState
# At run time: learner([Wrong()])
# R: SubscriberError: Wrong.after_epoch cannot be called with (state): missing a required argument: 'epoch'. Expected after_epoch(self, state).
