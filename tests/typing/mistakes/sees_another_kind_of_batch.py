"""A method for other batches than the class says."""

from torch import Tensor

from nntrain import Subscriber, TrainState
from tests.typing.setting import Batch


class Wrong(Subscriber[Batch]):
    def before_batch(self, state: TrainState, batch: dict[str, Tensor]) -> TrainState:  # E: Argument 2 of "before_batch" is incompatible with supertype "nntrain.subscribers.protocol.Subscriber"; supertype defines the argument type as "tuple[Tensor, Tensor]"  [override]
        return state

# N: This violates the Liskov substitution principle
# N: See https://mypy.readthedocs.io/en/stable/common_issues.html#incompatible-overrides
