"""Each metric of a batch, as a number or a 0-dim tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Never

from torch import Tensor

MetricFn = Callable[[Never, Never], Tensor]
"""A function of (preds, target) to one number, a 0-dim tensor. A float will do at run time; it waits for the device."""
