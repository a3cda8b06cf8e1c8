"""Precision: torch's autocast around a task, and its precision of float32 products for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, get_args

import torch

from nntrain.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
"""What a task computes in, where torch's autocast says that less than float32 will do; "fp32" is without autocast."""
MatmulPrecision = Literal["highest", "high", "medium"]
"""How precise products of float32 matrices are, as `torch.set_float32_matmul_precision` takes it."""

_TYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType({"bf16": torch.bfloat16, "fp16": torch.float16})
_WITHOUT_HALVES: Final = ("NO AVX", "AVX2")
"""What torch calls the x86 processors whose products of half precision are made one by one."""
Returned = TypeVar("Returned")


def check_precision(precision: object, matmul: object) -> None:
    """Raise `ConfigError` for what is no precision."""
    if precision not in get_args(Precision):
        raise ConfigError(f"precision is {precision!r:.80}; expected {_listed(get_args(Precision))}.")
    if matmul is not None and matmul not in get_args(MatmulPrecision):
        raise ConfigError(f"float32_matmul is {matmul!r:.80}; expected None or {_listed(get_args(MatmulPrecision))}.")


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(map(repr, names))


def autocasting(run: Callable[..., Returned], precision: Precision, device: torch.device) -> Callable[..., Returned]:
    """Return `run` under autocast; with "fp32" `run` itself.

    What autocast has cast is kept until the call ends, and no longer: then the weights may change. Raises `ConfigError`
    where the device has no such type.
    """
    dtype = _TYPES.get(precision)
    if dtype is None:
        return run
    if device.type == "cuda" and dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
        raise ConfigError(f"precision is 'bf16', which {torch.cuda.get_device_name(device)} lacks. Take 'fp16'.")
    around = torch.autocast(device.type, dtype)

    def cast(*given: Any) -> Returned:
        with around:
            return run(*given)

    return cast


def slow_precision(precision: Precision, device: torch.device) -> str | None:
    """Return what to say where a processor lacks the instructions for a precision; torch then goes long ways round."""
    capability = torch.backends.cpu.get_cpu_capability()
    if precision not in _TYPES or device.type != "cpu" or capability not in _WITHOUT_HALVES:
        return None
    return (
        f"precision is {precision!r}, for which this processor ({capability}) has no instructions: a training may take "
        f"ten times as long as in float32. Take Engine(precision='fp32') here."
    )


@contextmanager
def matmul_precision(wanted: MatmulPrecision | None) -> Iterator[None]:
    """Multiply float32 matrices in a precision for a block; None leaves it."""
    if wanted is None:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
