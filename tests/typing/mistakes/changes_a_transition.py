"""A sink is shown a transition, which is frozen."""

from nntrain import Transition
from tests.typing.setting import learner, strictly


def wrong(transition: Transition) -> None:
    transition.by = "me"  # E: Property "by" defined in "Transition" is read-only  [misc]


# At run time: learner([]).replace(sinks=[strictly(wrong)]).fit(1)
# R: FrozenInstanceError: cannot assign to field 'by'
