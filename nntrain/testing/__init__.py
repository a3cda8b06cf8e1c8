"""Checks for what you write yourself, from subscribers to update rules and loaders: one line each in a test suite."""

from nntrain.testing.commutativity import Clash, clashes
from nntrain.testing.dry_run import Answered, DryRun, dry_run
from nntrain.testing.laws import Law, LawBrokenError
from nntrain.testing.loader import check_loader
from nntrain.testing.metric import check_metric
from nntrain.testing.plans import MakeLearner, Pair, Plan, small_learner
from nntrain.testing.ranks import check_ranks
from nntrain.testing.rule import check_rule
from nntrain.testing.schedule import check_schedule
from nntrain.testing.sink import check_sink
from nntrain.testing.subscriber import check_subscriber
from nntrain.testing.task import check_task
from nntrain.testing.whole_metric import Samples

__all__ = [
    "Answered",
    "Clash",
    "DryRun",
    "Law",
    "LawBrokenError",
    "MakeLearner",
    "Pair",
    "Plan",
    "Samples",
    "check_loader",
    "check_metric",
    "check_ranks",
    "check_rule",
    "check_schedule",
    "check_sink",
    "check_subscriber",
    "check_task",
    "clashes",
    "dry_run",
    "small_learner",
]
