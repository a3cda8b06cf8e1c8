"""A verdict of a scope that does not run yet."""

from nntrain import CancelEpoch, Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def before_fit(self, state: TrainState) -> TrainState | CancelEpoch:  # E: Return type "TrainState | CancelEpoch" of "before_fit" incompatible with return type "TrainState | CancelFit" in supertype "nntrain.subscribers.protocol.Subscriber"  [override]
        return CancelEpoch(reason="no epoch yet")


# At run time: learner([Wrong()]).fit(1)
# R: VerdictError: Wrong.before_fit answered CancelEpoch, but no epoch runs at before_fit. It may answer TrainState | CancelFit.
