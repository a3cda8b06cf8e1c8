"""A subscriber that forgets to return the state."""

from nntrain import Subscriber, TrainState
from tests.typing.setting import SEEN, Batch, Seen, learner


class Wrong(Subscriber[Batch]):
    def after_epoch(self, state: TrainState) -> TrainState:  # E: Missing return statement  [return]
        state.put(SEEN, Seen(batches=1))


# At run time: learner([Wrong()]).fit(1)
# R: SubscriberError: Wrong.after_epoch returned None (is `return state` missing?); expected TrainState | CancelEpoch | CancelFit.
