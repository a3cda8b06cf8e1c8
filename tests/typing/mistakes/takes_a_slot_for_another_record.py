"""What a slot holds is what it was made for."""

from nntrain import TrainState
from tests.typing.setting import SEEN


def wrong(state: TrainState) -> str:
    return state.get(SEEN)  # E: Incompatible return value type (got "Seen", expected "str")  [return-value]
