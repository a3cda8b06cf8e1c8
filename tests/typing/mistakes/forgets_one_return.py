"""A subscriber that returns in one branch only."""

from nntrain import CancelFit, Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def after_epoch(self, state: TrainState) -> TrainState | CancelFit:  # E: Missing return statement  [return]
        if state.progress.epoch > 0:
            return CancelFit(reason="enough")


# At run time: learner([Wrong()]).fit(1)
# R: SubscriberError: Wrong.after_epoch returned None (is `return state` missing?); expected TrainState | CancelEpoch | CancelFit.
