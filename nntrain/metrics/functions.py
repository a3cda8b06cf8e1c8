"""Metrics: functions of (preds, target) that give one number, a mean over the batch's samples."""

from __future__ import annotations

from torch import Tensor


def accuracy(preds: Tensor, target: Tensor) -> Tensor:
    """Return the share of samples whose largest output is the target's class.

    `preds` are scores [B, C, ...], `target` class numbers [B, ...]; the result is a 0-dim float tensor in 0..1,
    where `preds` live.
    """
    return (preds.argmax(dim=1) == target).float().mean()
