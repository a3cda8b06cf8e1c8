"""What is inside a training: its model, activations and gradients, and what it is wrong about.

Invariant: whatever looks does so beside the training, on a module of its own; the state and the learner go on as if
nobody had looked.
"""

from nntrain.looking.activations import ActivationStats, activation_stats
from nntrain.looking.gradients import gradient_flow
from nntrain.looking.mistakes import ConfusionLog, Mistake, confusion_matrix, worst_predictions
from nntrain.looking.overfit import Overfit, overfit_one_batch
from nntrain.looking.summary import LayerSummary, ModelSummary, summary
from nntrain.values.looks import (
    Activations,
    ConfusionMatrix,
    GradientFlow,
    LayerActivations,
    OperatorTime,
    ParameterGradients,
    Profiled,
    Throughput,
)

__all__ = [
    "ActivationStats",
    "Activations",
    "ConfusionLog",
    "ConfusionMatrix",
    "GradientFlow",
    "LayerActivations",
    "LayerSummary",
    "Mistake",
    "ModelSummary",
    "OperatorTime",
    "Overfit",
    "ParameterGradients",
    "Profiled",
    "Throughput",
    "activation_stats",
    "confusion_matrix",
    "gradient_flow",
    "overfit_one_batch",
    "summary",
    "worst_predictions",
]
