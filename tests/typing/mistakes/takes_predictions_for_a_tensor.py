"""What a model returns is between it and the loss: isinstance tells."""

from nntrain import BatchOutput, Subscriber, TrainState
from tests.typing.setting import Batch


class Wrong(Subscriber[Batch]):
    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        print(output.preds.mean())  # E: "object" has no attribute "mean"  [attr-defined]
        return state
