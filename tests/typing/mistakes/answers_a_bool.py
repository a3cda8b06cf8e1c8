"""A subscriber that answers whether to go on, as other libraries' callbacks do."""

from nntrain import Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def after_epoch(self, state: TrainState) -> bool:  # E: Return type "bool" of "after_epoch" incompatible with return type "TrainState | CancelEpoch | CancelFit" in supertype "nntrain.subscribers.protocol.Subscriber"  [override]
        return state.progress.epoch < 3


# At run time: learner([Wrong()]).fit(1)
# R: SubscriberError: Wrong.after_epoch returned bool: True; expected TrainState | CancelEpoch | CancelFit.
