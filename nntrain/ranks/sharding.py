"""Sharding: torch's `fully_shard` (FSDP2) over a module, and what a training asks of it beside forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import torch
from torch import Tensor, nn

from nntrain.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

_LISTS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""What holds modules of one kind: each of these is gathered by itself."""
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

    Raises `ConfigError` for what cannot be meant.
    """

    wrap: Wrap | Sequence[Wrap] | None = None
    reshard_after_forward: bool = True
    param_dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype | None = None
    methods: Sequence[str] = ()
    replicate: int = 1

    def __post_init__(self) -> None:
        """Check every argument."""
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


class ShardedModule:
    """A module whose parameters are sharded over all ranks, as `options` say. They are `DTensor`s from then on.

    Every rank makes it at the same place, from a module with the same parameters. Raises `ConfigError` for a module, or
    a world, that cannot be sharded so.
    """

    def __init__(self, module: nn.Module, options: Sharded, device: torch.device) -> None:
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

    @staticmethod
    def take_of_first(buffers: Sequence[Tensor]) -> None:
        """Make buffers those of rank 0, in place (collective): each rank's pass wrote what it saw of the batch."""
        import torch.distributed as dist

        with torch.no_grad():
            for kind in dict.fromkeys((one.dtype, one.device) for one in buffers):
                alike = [one.detach() for one in buffers if (one.dtype, one.device) == kind]
                flat = torch.cat([one.reshape(-1) for one in alike])
                dist.broadcast(flat, 0)
                for one, part in zip(alike, torch.split(flat, [one.numel() for one in alike]), strict=True):
                    one.copy_(part.view(one.shape))


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
