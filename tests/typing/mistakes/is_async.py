"""A subscriber answers at once."""

from nntrain import Subscriber, TrainState
from tests.typing.setting import Batch, learner


class Wrong(Subscriber[Batch]):
    async def after_epoch(self, state: TrainState) -> TrainState:  # E: Return type "Coroutine[Any, Any, TrainState]" of "after_epoch" incompatible with return type "TrainState | CancelEpoch | CancelFit" in supertype "nntrain.subscribers.protocol.Subscriber"  [override]
        return state


# At run time: learner([Wrong()])
# R: SubscriberError: Wrong.after_epoch is async; subscribers answer at once. Make it a plain def: after_epoch(self, state).
