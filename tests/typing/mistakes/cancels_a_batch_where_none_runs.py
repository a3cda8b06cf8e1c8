"""A verdict of a scope that does not run."""

from nntrain import CancelBatch, Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def before_epoch(self, state: TrainState) -> CancelBatch:  # E: Return type "CancelBatch" of "before_epoch" incompatible with return type "TrainState | CancelEpoch | CancelFit" in supertype "nntrain.subscribers.protocol.Subscriber"  [override]
        return CancelBatch()


# At run time: learner([Wrong()]).fit(1)
# R: VerdictError: Wrong.before_epoch answered CancelBatch, but no batch runs at before_epoch. It may answer TrainState | CancelEpoch | CancelFit.
