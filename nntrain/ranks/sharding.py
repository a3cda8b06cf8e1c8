"""Sharding: torch's `fully_shard` (FSDP2) over a module, and what a training asks of it beside forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from nntrain.errors import ConfigError
from nntrain.ranks.options import Sharded, Wrap

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

_LISTS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""What holds modules of one kind: each of these is gathered by itself."""


class ShardedModule:
    """A module whose parameters are sharded over all ranks, as `options` say. They are `DTensor`s from then on.

    Every rank makes it at the same place, from a module with the same parameters. Raises `ConfigError` for a module, or
    a world, that cannot be sharded so.
    """

    def __init__(self, options: Sharded, module: nn.Module, device: torch.device) -> None:
        from torch.distributed.fsdp import (
            FSDPModule,
            MixedPrecisionPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )

        self._check(module, options)
        units = [*_units(module, options.wrap)]
        mesh = _mesh(device, options.replicate)
        policy = MixedPrecisionPolicy(param_dtype=options.param_dtype, reduce_dtype=options.reduce_dtype)
        try:
            for unit in reversed(units):  # what is within another one comes first
                fully_shard(unit, mesh=mesh, reshard_after_forward=options.reshard_after_forward, mp_policy=policy)
            fully_shard(module, mesh=mesh, mp_policy=policy)
            for name in options.methods:
                register_fsdp_forward_method(module, name)
            self._root: FSDPModule = _as_fsdp(module)
            # By itself torch does this in the first forward pass of any part, and takes that part for the root.
            self._root._get_fsdp_state()._lazy_init()
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise ConfigError(f"The model cannot be sharded by torch's fully_shard: {error}") from error
        self._all: list[FSDPModule] = [one for one in module.modules() if isinstance(one, FSDPModule)]
        self.gathered: dict[str, nn.Parameter] = self._gathered(module)
        """The parameters that passes compute with, in the place of the module's own.

        They are the same ones in each pass, and have memory only while they are gathered.
        """

    @staticmethod
    def _check(module: nn.Module, options: Sharded) -> None:
        for name in options.methods:
            if not callable(getattr(module, name, None)):
                raise ConfigError(f"methods has {name!r}; the model {type(module).__name__} has no such method.")
        scalars = [name for name, param in module.named_parameters() if not param.ndim]
        if scalars:
            raise ConfigError(
                f"The parameters {', '.join(scalars):.200} are 0-dim, of which no rank can have a part. Make them of "
                f"one element: nn.Parameter(torch.zeros(1))."
            )

    @contextmanager
    def whole_pass(self) -> Iterator[None]:
        """Surround a pass: what it leaves gathered is let go, so that the parameters may be written after it.

        One that is broken off is forgotten, so that another may begin. Raises `ConfigError` where it wrote to gathered
        parameters.
        """
        before = [one._version for one in self.gathered.values()]
        try:
            yield
            written = [
                name for (name, one), old in zip(self.gathered.items(), before, strict=True) if one._version != old
            ]
            if written:
                raise ConfigError(
                    f"The model writes to its parameters {', '.join(written):.200} in the forward pass. They are a "
                    f"gathered copy of the sharded ones, which is let go after the pass, and the write with it. Keep "
                    f"what the forward pass writes in a buffer, or train with parallel='data'."
                )
        except BaseException:
            self._root.reset_iter_state()
            raise
        for one in self._all:
            one.reshard()

    def _gathered(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return what stands in the place of the module's parameters while they are gathered (collective)."""
        found: dict[str, nn.Parameter] = {}
        for one in self._all:
            one.unshard()
            found |= {name: param for name, param in module.named_parameters() if type(param) is nn.Parameter}
            one.reshard()
        return found


def _as_fsdp(module: Any) -> FSDPModule:
    """Return a module as what `fully_shard` has made it."""
    if not hasattr(module, "reset_iter_state"):
        raise ConfigError(
            f"Sharding needs a torch whose FSDPModule has reset_iter_state, to go on after a pass that failed; this is "
            f"torch {torch.__version__}. Install a newer one, or train with parallel='data'."
        )
    fsdp: FSDPModule = module
    return fsdp


def _mesh(device: torch.device, replicate: int) -> DeviceMesh:
    """Return the mesh of all ranks. Raises `ConfigError` where copies do not come out even."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    ranks = dist.get_world_size()
    if ranks % replicate:
        raise ConfigError(f"replicate is {replicate}, which does not divide the {ranks} ranks. Take one that does.")
    if replicate == 1:
        return init_device_mesh(device.type, (ranks,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (replicate, ranks // replicate), mesh_dim_names=("replicate", "shard"))


def _units(module: nn.Module, wrap: Wrap | Sequence[Wrap] | None) -> Iterator[nn.Module]:
    """Yield the modules that are gathered by themselves, the outer ones first. Raises `ConfigError` where none is."""
    if wrap is None:
        yield from _members(module)
        return
    wraps: Sequence[Wrap] = (wrap,) if isinstance(wrap, (str, type)) else wrap
    named = {name: one for name, one in module.named_modules() if name and next(one.parameters(), None) is not None}
    for one in wraps:
        if not any(_matches(name, inner, one) for name, inner in named.items()):
            said = f"{one!r}, which matches the name of" if isinstance(one, str) else f"{one.__name__}, which is of"
            raise ConfigError(f"wrap has {said} no module with parameters; there are {', '.join(named):.300}.")
    yield from (inner for name, inner in named.items() if any(_matches(name, inner, one) for one in wraps))


def _matches(name: str, module: nn.Module, wrap: Wrap) -> bool:
    return fnmatchcase(name, wrap) if isinstance(wrap, str) else isinstance(module, wrap)


def _members(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the members, with parameters, of the outermost lists of modules."""
    for child in module.children():
        if not isinstance(module, _LISTS) or isinstance(child, _LISTS[1:]):  # these have no forward
            yield from _members(child)
        elif next(child.parameters(), None) is not None:
            yield child
