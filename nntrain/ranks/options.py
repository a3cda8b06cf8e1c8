"""How several processes share a training: what `Engine(parallel=...)` takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

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


Parallel = DataParallel


def as_parallel(given: object) -> Parallel | None:
    """Return the options that are meant: "data" stands for `DataParallel()`. Raises `ConfigError` for anything else."""
    if given is None or isinstance(given, DataParallel):
        return given
    if given == "data":
        return DataParallel()
    raise ConfigError(f"parallel is {given!r:.80}; expected None, 'data' or DataParallel(...).")
