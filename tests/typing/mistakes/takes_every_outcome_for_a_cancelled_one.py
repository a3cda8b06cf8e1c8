"""Only a Cancelled has a verdict."""

from nntrain import Outcome
from tests.typing.setting import learner


def wrong(outcome: Outcome) -> str:
    return outcome.verdict.reason  # E: Item "Completed" of "Completed | Cancelled" has no attribute "verdict"  [union-attr]


# At run time: wrong(learner([]).fit(1, print_stats=False))
# R: AttributeError: 'Completed' object has no attribute 'verdict'
