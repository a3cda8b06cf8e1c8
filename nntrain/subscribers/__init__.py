"""What decides: the subscribers that come with nntrain."""

from nntrain.subscribers.early_stopping import EarlyStopping

__all__ = ["EarlyStopping"]
