"""What is measured of a batch, beside its loss.

Invariant: a metric sees detached predictions, and its number stays on their device until somebody reads it.
"""

from nntrain.metrics.functions import accuracy

__all__ = ["accuracy"]
