"""What is measured of a batch, and of a whole phase, beside its loss.

Invariant: a metric sees detached predictions, and its number stays on their device until somebody reads it. What a
`Metric` remembers is a value in the state: it is never written again.
"""

from nntrain.metrics.confusion import Confusion
from nntrain.metrics.functions import accuracy
from nntrain.metrics.metric import Metric
from nntrain.metrics.torch_metrics import from_torchmetrics

__all__ = ["Confusion", "Metric", "accuracy", "from_torchmetrics"]
