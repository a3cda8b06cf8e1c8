"""What is measured of a batch."""

from nntrain.metrics.functions import accuracy

__all__ = ["accuracy"]
