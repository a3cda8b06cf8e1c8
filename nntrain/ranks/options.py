"""How several processes share a training: what `Engine(parallel=...)` takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

import torch
from torch import nn

from nntrain.errors import ConfigError

TIMEOUT: Final = 600.0
"""Seconds after which a rank that the others wait for is taken for hung, as of the timeout of torch's own groups."""


@dataclass(frozen=True)
class DataParallel:
    """Each rank has the whole model, and a part of each batch: torch's `DistributedDataParallel`.

    Args:
        timeout: how many seconds the ranks wait for one of them before they end with an error that names it.
        find_unused_parameters: whether some parameters may be without a gradient in some batches, as torch has it.
        bucket_mb: of how many megabytes gradients are summed at a time while the backward pass goes on; as torch has
            it where that is not said: 1 first, and then 25.

    Raises `ConfigError` for what cannot be meant.
    """

    timeout: float = TIMEOUT
    find_unused_parameters: bool = False
    bucket_mb: float | None = None

    def __post_init__(self) -> None:
        """Check every argument."""
        check_positive("timeout", self.timeout, "seconds")
        if self.bucket_mb is not None:
            check_positive("bucket_mb", self.bucket_mb, "megabytes")
        if not isinstance(self.find_unused_parameters, bool):
            raise ConfigError(f"find_unused_parameters is {self.find_unused_parameters!r}; expected True or False.")


def check_positive(name: str, given: object, unit: str) -> None:
    """Raise `ConfigError` for what is no finite number above 0."""
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not (0 < given < math.inf):
        raise ConfigError(f"{name} is {given!r}; expected {unit}, a finite number above 0.")


Wrap = str | type[nn.Module]
"""Which modules are gathered by themselves: those of a class, or whose names match a pattern as `fnmatch` reads it."""


@dataclass(frozen=True)
class Sharded:
    """Each rank keeps a part of each parameter, its gradient and its optimizer's memory: torch's `fully_shard`, FSDP2.

    A unit's parameters are gathered for its forward and backward pass, and let go after each.

    Args:
        wrap: the units: a class of modules or a pattern of their names, like `"layers.*"`, or a list of these. By
            default the members of the outermost lists (`Sequential`, `ModuleList`, `ModuleDict`), such as the blocks of
            a transformer. What is in no unit is one with the rest of the model.
        reshard_after_forward: whether a unit's parameters are let go after its forward pass, and gathered again for its
            backward pass: less memory for more traffic. Those of the rest are kept: they are needed soon.
        param_dtype: what units are gathered and computed in, like `torch.bfloat16`; by default the parameters' own.
        reduce_dtype: what gradients are summed in; by default `param_dtype`.
        methods: names of the model's methods that a task calls in the place of the model itself, like `"encode"`: only
            what is called so has its parameters gathered for it.
        replicate: how many copies of the parameters there are over all ranks (HSDP): each is spread over
            `ranks / replicate` of them that follow each other, as the GPUs of one machine. It must divide the ranks.
        timeout: how many seconds the ranks wait for one of them before they end with an error that names it.

    Raises `ConfigError` for what cannot be meant.
    """

    wrap: Wrap | Sequence[Wrap] | None = None
    reshard_after_forward: bool = True
    param_dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype | None = None
    methods: Sequence[str] = ()
    replicate: int = 1
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        """Check every argument."""
        check_positive("timeout", self.timeout, "seconds")
        if not isinstance(self.reshard_after_forward, bool):
            raise ConfigError(f"reshard_after_forward is {self.reshard_after_forward!r:.80}; expected True or False.")
        for name in ("param_dtype", "reduce_dtype"):
            dtype: object = getattr(self, name)
            if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
                raise ConfigError(f"{name} is {dtype!r:.80}; expected None or a floating dtype, like torch.bfloat16.")
        if isinstance(self.replicate, bool) or not isinstance(self.replicate, int) or self.replicate < 1:
            raise ConfigError(f"replicate is {self.replicate!r:.80}; expected a whole number of copies from 1.")
        if isinstance(self.methods, str) or not all(isinstance(one, str) for one in self.methods):
            raise ConfigError(f"methods is {self.methods!r:.80}; expected a list of names, like ['encode'].")
        object.__setattr__(self, "methods", tuple(self.methods))
        given: object = self.wrap
        wraps = (given,) if given is None or isinstance(given, (str, type)) else given
        if not isinstance(wraps, Sequence) or not all(one is None or _is_wrap(one) for one in wraps) or not wraps:
            raise ConfigError(
                f"wrap is {given!r:.80}; expected a class of modules, a pattern of their names like 'layers.*', or a "
                f"list of these."
            )
        if isinstance(given, Sequence) and not isinstance(given, str):
            object.__setattr__(self, "wrap", tuple(given))


def _is_wrap(given: object) -> TypeGuard[Wrap]:
    return isinstance(given, str) or (isinstance(given, type) and issubclass(given, nn.Module))


Parallel = DataParallel | Sharded


def as_parallel(given: object) -> Parallel | None:
    """Return the options that are meant: "data" stands for `DataParallel()`, and "sharded" for `Sharded()`.

    Raises `ConfigError` for anything else.
    """
    if given is None or isinstance(given, (DataParallel, Sharded)):
        return given
    if given == "data":
        return DataParallel()
    if given == "sharded":
        return Sharded()
    raise ConfigError(
        f"parallel is {given!r:.80}; expected None, 'data', 'sharded', DataParallel(...) or Sharded(...)."
    )
