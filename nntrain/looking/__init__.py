"""What is inside a training: its model, activations and gradients, and what it is wrong about.

Invariant: whatever looks does so beside the training, on a module of its own; the state and the learner go on as if
nobody had looked.
"""

from nntrain.looking.activations import ActivationStats, activation_stats
from nntrain.looking.gradients import gradient_flow
from nntrain.looking.mistakes import ConfusionLog, Mistake, confusion_matrix, worst_predictions
from nntrain.looking.overfit import Overfit, overfit_one_batch
from nntrain.looking.summary import LayerSummary, ModelSummary, summary

__all__ = [
    "ActivationStats",
    "ConfusionLog",
    "LayerSummary",
    "Mistake",
    "ModelSummary",
    "Overfit",
    "activation_stats",
    "confusion_matrix",
    "gradient_flow",
    "overfit_one_batch",
    "summary",
    "worst_predictions",
]
