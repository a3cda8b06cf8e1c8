"""What gradients become: update rules, among them any torch optimizer, over named parameters.

Invariant: what a rule remembers is read out and brought in as a value, and a step that fails says whether it had
written anything.
"""

from nntrain.update.accumulating import accumulate
from nntrain.update.averaging import ema, swa
from nntrain.update.chaining import chain, schedule_free
from nntrain.update.clipping import clip_norm, clip_value
from nntrain.update.freezing import freeze
from nntrain.update.layers import layerwise
from nntrain.update.loss_scaling import loss_scale
from nntrain.update.noise import gradient_noise
from nntrain.update.norms import gradient_norms
from nntrain.update.rule import At, BoundRule, Gradients, UpdateRule
from nntrain.update.sharpness import sam
from nntrain.update.skipping import skip_nonfinite
from nntrain.update.torch_rule import optimizer

__all__ = [
    "At",
    "BoundRule",
    "Gradients",
    "UpdateRule",
    "accumulate",
    "chain",
    "clip_norm",
    "clip_value",
    "ema",
    "freeze",
    "gradient_noise",
    "gradient_norms",
    "layerwise",
    "loss_scale",
    "optimizer",
    "sam",
    "schedule_free",
    "skip_nonfinite",
    "swa",
]
