"""An event's name is misspelt: it would never be called."""

from typing_extensions import override

from nntrain import Subscriber, TrainState
from tests.typing.setting import Batch


class Wrong(Subscriber[Batch]):
    @override
    def befor_batch(self, state: TrainState, batch: Batch) -> TrainState:  # E: Method "befor_batch" is marked as an override, but no base method was found with this name  [misc]
        return state


# At run time: importing this
# R: SubscriberError: Wrong.befor_batch is no event, so it would never be called. Did you mean before_batch? (A method of your own needs a name unlike an event's, or a leading underscore.)
