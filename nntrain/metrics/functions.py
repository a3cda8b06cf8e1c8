"""Metrics: functions of (preds, target) that give one number, a mean over the batch's samples."""

from __future__ import annotations

import math

from torch import Tensor

from nntrain.errors import MetricError
from nntrain.values.trees import described


def accuracy(preds: Tensor, target: Tensor) -> Tensor:
    """Return the share of samples whose largest output is the target's class.

    `preds` are scores [B, C, ...], `target` class numbers [B, ...]; the result is a 0-dim float tensor in 0..1,
    where `preds` live.

    A float target of the scores' shape has probabilities, as after MixUp: the largest tells the class. Where they do
    not add up to 1, as with several labels for a sample, the result is NaN. Raises `MetricError` for any other shape.
    """
    found = preds.argmax(dim=1)
    if found.shape == target.shape:
        return (found == target).float().mean()
    if target.shape != preds.shape or not target.is_floating_point():
        raise MetricError(
            f"accuracy: the scores are {described(preds)}, the target {described(target)}; expected class numbers "
            f"{list(found.shape)}, or probabilities as float{list(preds.shape)}."
        )
    right = (found == target.argmax(dim=1)).float()
    return right.masked_fill((target.sum(dim=1) - 1).abs() > _ROUNDING, math.nan).mean()


_ROUNDING = 0.02
"""How far from 1 the sum of probabilities in half precision may be."""
