"""Plots with matplotlib, which the extra `plot` brings: each function draws on axes and returns them.

Each takes `ax`, and then draws on it, and leaves pyplot as it is. Without it the figure is a new one of pyplot's, so
that a notebook shows it and `pyplot.show()` and `pyplot.close()` know it. Neither the backend nor any setting of
matplotlib's is changed. `import nntrain` imports none of this.

Raises `MissingExtraError` where matplotlib is not installed.
"""

from nntrain.errors import needed
from nntrain.plots.curves import losses, metric
from nntrain.plots.layers import activation_histograms, activations, gradient_flow, gradient_norms
from nntrain.plots.mistakes import confusion
from nntrain.plots.pictures import images, worst
from nntrain.plots.rates import range_test, schedule

__all__ = [
    "activation_histograms",
    "activations",
    "confusion",
    "gradient_flow",
    "gradient_norms",
    "images",
    "losses",
    "metric",
    "range_test",
    "schedule",
    "worst",
]

needed("matplotlib", extra="plot", purpose="nntrain.plots")
