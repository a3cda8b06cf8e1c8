"""The arguments in another order."""

from nntrain import Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    def before_batch(self, batch: Batch, state: TrainState) -> TrainState:  # E: Argument 1 of "before_batch" is incompatible with supertype "nntrain.subscribers.protocol.Subscriber"; supertype defines the argument type as "TrainState"  [override]  # E: Argument 2 of "before_batch" is incompatible with supertype "nntrain.subscribers.protocol.Subscriber"; supertype defines the argument type as "tuple[Tensor, Tensor]"  [override]
        return state

# N: This violates the Liskov substitution principle
# N: See https://mypy.readthedocs.io/en/stable/common_issues.html#incompatible-overrides
# At run time: learner([Wrong()]).fit(1)
# R: SubscriberError: Wrong.before_batch returned tuple: (tensor([[1., 1.], [1., 1.]]), tensor([0, 1])); expected TrainState | CancelBatch | CancelEpoch | CancelFit.
