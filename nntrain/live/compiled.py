"""`torch.compile`, for one learner's functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Final, ParamSpec, TypeVar, cast

import torch

from nntrain.errors import ConfigError

_REUSING: Final = ("reduce-overhead", "max-autotune")
"""The modes of `torch.compile` that put each call's results into the same memory, on CUDA."""
Args = ParamSpec("Args")
Returned = TypeVar("Returned")
CompileOptions = Mapping[str, object]
"""Keyword arguments of `torch.compile`: mode, backend, dynamic ..."""


def compiled(function: Callable[Args, Returned], options: CompileOptions) -> Callable[Args, Returned]:
    """Compile a plain function when it is first called.

    torch limits how often a code object is compiled anew, so each learner's function has one of its own. Each shape is
    compiled for itself unless `dynamic` says otherwise: code for any shape, made when a second one was met, may round
    otherwise, and the same training would not be the same again.
    """
    plain = cast(FunctionType, function)
    own = FunctionType(
        plain.__code__.replace(), plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__
    )
    compiling = cast(Callable[..., Callable[Args, Returned]], torch.compile)
    return compiling(own, **{"dynamic": False, **options})


def compile_options(given: object) -> CompileOptions | None:
    """Return the options that a learner's `compile` stands for; None for no compiling. Raises `ConfigError`."""
    if isinstance(given, bool):
        return {} if given else None
    known = [name for name in inspect.signature(torch.compile).parameters if name != "model"]
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"compile is {given!r}; expected True, False or torch.compile's options, like {{'mode': 'max-autotune'}}."
        )
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigError(
            f"compile has {', '.join(map(repr, unknown))}; torch.compile's options are {', '.join(known)}."
        )
    try:
        torch.compile(_nothing, **given)
    except Exception as error:
        raise ConfigError(f"compile is {dict(given)!r}, which torch.compile refuses: {error}") from error
    return dict(given)


def reuses_memory(options: CompileOptions, device: torch.device) -> bool:
    """Return whether what was compiled puts each call's results into the same memory."""
    return options.get("mode") in _REUSING and device.type == "cuda"


def _nothing() -> None:
    """Be compiled, in theory."""
