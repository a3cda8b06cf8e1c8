"""What decides: the subscribers that come with nntrain."""

from nntrain.subscribers.early_stopping import EarlyStopping
from nntrain.subscribers.nan_guard import NanGuard
from nntrain.subscribers.rollback import Rollback

__all__ = ["EarlyStopping", "NanGuard", "Rollback"]
