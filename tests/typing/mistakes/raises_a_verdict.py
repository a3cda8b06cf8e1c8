"""A verdict is a value and no exception."""

from nntrain import CancelFit, Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def after_epoch(self, state: TrainState) -> TrainState:
        raise CancelFit(reason="enough")  # E: Exception must be derived from BaseException  [misc]


# At run time: learner([Wrong()]).fit(1)
# R: TypeError: exceptions must derive from BaseException
