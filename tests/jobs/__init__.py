"""Weekly jobs: each as a plain PyTorch loop, and as a user would write it with nntrain, in no more lines.

Both begin with the same weights and see the same batches. They end with the same bits, and tell the same figures, to
the last bit where nothing else is said. (The accuracy of a phase is a mean of float32 means. It has the bits of right
answers by samples where batches are of 4, 8 or 16, as those that are evaluated here; elsewhere it is within 1e-7.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from nntrain import TrainState

Figures = TypeVar("Figures")
Trained = TypeVar("Trained", TrainState, nn.Module)


def check_job(plain: Callable[[], tuple[nn.Module, Figures]], ours: Callable[[], tuple[Trained, Figures]]) -> Trained:
    """Check that both give the same bits and figures, and that ours is no longer. Return what it trained."""
    expected, figures = plain()
    trained, told = ours()
    assert told == figures
    check_bits(tensors_of(trained), tensors_of(expected))
    check_length(ours, plain)
    return trained


def check_bits(told: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that tensors have the same names and bits."""
    assert set(told) == set(expected)
    assert [name for name, tensor in expected.items() if not torch.equal(told[name], tensor)] == []


def check_length(ours: Callable[..., object], plain: Callable[..., object]) -> None:
    """Check that ours has no more lines of code than the plain loop."""
    assert lines_of(ours) <= lines_of(plain)


def tensors_of(trained: TrainState | nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers by name."""
    if isinstance(trained, TrainState):
        return {**trained.params, **trained.buffers}
    return {**dict(trained.named_parameters()), **dict(trained.named_buffers())}


def lines_of(function: Callable[..., object]) -> int:
    """Return how many lines of code a function has: neither blank ones nor comments."""
    lines = [line.strip() for line in inspect.getsource(function).splitlines()]
    return sum(1 for line in lines if line and not line.startswith("#"))
