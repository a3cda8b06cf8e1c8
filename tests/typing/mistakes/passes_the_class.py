"""The class in place of a subscriber."""

from nntrain import EarlyStopping
from tests.typing.setting import learner

learner([EarlyStopping])  # E: List item 0 has incompatible type "type[EarlyStopping]"; expected "Listening[tuple[Tensor, Tensor], object]"  [list-item]

# N: Following member(s) of "EarlyStopping" have conflicts:
# N:     Expected:
# N:         def after_batch(state: TrainState, batch: tuple[Tensor, Tensor], output: BatchOutput[object]) -> TrainState | CancelBatch | CancelEpoch | CancelFit
# N:     Got:
# N:         def after_batch(self: Subscriber[object, object], state: TrainState, batch: object, output: BatchOutput[object]) -> TrainState | CancelBatch | CancelEpoch | CancelFit
# N:     Expected:
# N:         def after_epoch(state: TrainState) -> TrainState | CancelEpoch | CancelFit
# N:     Got:
# N:         def after_epoch(self: EarlyStopping, state: TrainState) -> TrainState | CancelEpoch | CancelFit
# N:     <4 more conflict(s) not shown>
# N: Only class variables allowed for class object access on protocols, order is an instance variable of "EarlyStopping"
# At run time: importing this
# R: SubscriberError: subs has the class EarlyStopping; pass an instance: EarlyStopping().
