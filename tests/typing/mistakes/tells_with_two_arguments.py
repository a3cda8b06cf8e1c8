"""A sink takes a transition."""

from nntrain import TrainState, Transition
from tests.typing.setting import learner


def tell(transition: Transition, state: TrainState) -> None:
    print(transition, state)


learner([]).replace(sinks=[tell])  # E: List item 0 has incompatible type "Callable[[Transition, TrainState], None]"; expected "Sink"  [list-item]

# N: "Sink.__call__" has type "Callable[[Transition], object]"
