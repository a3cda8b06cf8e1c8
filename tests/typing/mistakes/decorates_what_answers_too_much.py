"""@on: the function may answer what the event does not allow."""

from nntrain import CancelEpoch, TrainState, on
from tests.typing.setting import learner


@on("after_fit")  # E: Argument 1 has incompatible type "Callable[[TrainState], TrainState | CancelEpoch]"; expected "Callable[[TrainState], TrainState | CancelFit]"  [arg-type]
def wrong(state: TrainState) -> TrainState | CancelEpoch:
    return CancelEpoch(reason="too late")


# At run time: learner([wrong]).fit(1)
# R: VerdictError: wrong.after_fit answered CancelEpoch, but no epoch runs at after_fit. It may answer TrainState | CancelFit.
