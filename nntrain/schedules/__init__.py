"""Hyperparameters as functions of the optimizer's step: values that an update rule takes in the place of a number.

Invariant: a schedule is a value, and its rate a function of the step alone: that of `torch.optim.lr_scheduler`, to the
last few bits. It knows no fit: what it needs to know of one, how many steps, it is told.
"""

from nntrain.schedules.curve import Curve
from nntrain.schedules.joining import sequence, tuple_of, warmup
from nntrain.schedules.rates import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    linear,
    one_cycle,
    one_cycle_momentum,
    polynomial,
    step,
    warmup_stable_decay,
)
from nntrain.schedules.torch_table import from_torch

__all__ = [
    "Curve",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "from_torch",
    "linear",
    "one_cycle",
    "one_cycle_momentum",
    "polynomial",
    "sequence",
    "step",
    "tuple_of",
    "warmup",
    "warmup_stable_decay",
]
