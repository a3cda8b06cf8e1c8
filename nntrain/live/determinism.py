"""Deterministic operations for a while: torch's and cuDNN's switches, and what cuBLAS asks for beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from nntrain.errors import ConfigError, add_note

VARIABLE: Final = "CUBLAS_WORKSPACE_CONFIG"
_FIXED: Final = (":4096:8", ":16:8")
"""The workspaces of cuBLAS with which it adds up in one order, by NVIDIA's and torch's documentation."""


def check_deterministic(device: torch.device, *, wanted: bool) -> None:
    """Raise `ConfigError` where cuBLAS was not told, in the environment, to use workspaces of a fixed size."""
    found = os.environ.get(VARIABLE)
    if wanted and device.type == "cuda" and found not in _FIXED:
        raise ConfigError(
            f"deterministic=True on {device} needs the environment variable {VARIABLE}, which is "
            f"{'not set' if found is None else repr(found)}: cuBLAS would add up in any order. Set it before the "
            f"process begins, since cuBLAS reads it once: {VARIABLE}=:4096:8 python train.py (or :16:8, which takes "
            f"less memory and more time)."
        )


@contextmanager
def deterministic(*, wanted: bool) -> Iterator[None]:
    """Let operations have the same bits in each run, for a block; one that has no such form raises torch's error."""
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    of_cudnn = cudnn.benchmark, cudnn.deterministic
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" in str(error):
            add_note(
                error,
                "nntrain: Engine(deterministic=True) asks for such a form. Take another operation in its place; or, if "
                "its bits may differ from run to run, turn the mode off around it alone: "
                "torch.use_deterministic_algorithms(False) before it, True after it; or leave deterministic out.",
            )
        raise
    finally:
        cudnn.benchmark, cudnn.deterministic = of_cudnn
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
