"""Who decides: subscribers are asked at the six events, and answer with a state or a verdict.

Invariant: a subscriber is a function of the state that it sees. Whatever it remembers is in a slot of that state.
"""

from nntrain.subscribers.early_stopping import EarlyStopping
from nntrain.subscribers.nan_guard import NanGuard
from nntrain.subscribers.reduce_on_plateau import ReduceOnPlateau
from nntrain.subscribers.rollback import Rollback
from nntrain.subscribers.time_limit import TimeLimit

__all__ = ["EarlyStopping", "NanGuard", "ReduceOnPlateau", "Rollback", "TimeLimit"]
