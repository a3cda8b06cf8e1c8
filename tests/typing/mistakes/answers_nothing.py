"""A subscriber that says it answers nothing."""

from nntrain import Subscriber, TrainState
from tests.typing.setting import SEEN, Batch, Seen, learner


class Wrong(Subscriber[Batch]):
    def after_epoch(self, state: TrainState) -> None:  # E: Return type "None" of "after_epoch" incompatible with return type "TrainState | CancelEpoch | CancelFit" in supertype "nntrain.subscribers.protocol.Subscriber"  [override]
        state.put(SEEN, Seen(batches=1))


# At run time: learner([Wrong()]).fit(1)
# R: SubscriberError: Wrong.after_epoch returned None (is `return state` missing?); expected TrainState | CancelEpoch | CancelFit.
