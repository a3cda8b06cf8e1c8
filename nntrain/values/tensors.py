"""The tensors of a state: what a handle may be asked, whoever holds the memory behind it.

A `Tensors` handle stands for one value of all tensors of a training: parameters, buffers, the optimizer's state.
It is in one of these conditions, and only `nntrain.live.workspace` moves it from one to the next:

* live: it reads the workspace's own tensors, which hold exactly this value;
* owned: it holds a copy of its own, a `Snapshot`;
* pending: a step was computed but its write is put off; the first reader makes the workspace write it;
* lost: an optimizer failed while it was writing, and this value had no copy. Asking says so.

The value seen through a handle never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, Protocol, TypeVar

import torch
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from torch import Tensor, nn

from nntrain.errors import StateError, StatePicklingError
from nntrain.values.bits import same_bits
from nntrain.values.borrowing import borrow, versions_of
from nntrain.values.flattening import Flat, Flattener
from nntrain.values.shards import any_sharded, on_all_ranks, whole
from nntrain.values.trees import clone_tree

Read = TypeVar("Read")
ModelSource = nn.Module | Callable[[], nn.Module]
"""A module, or a function of no arguments that makes one."""
ANOTHER: Final = "another"
"""What a file says of the model of a state in a slot, where it is not that of the state around it."""


@dataclass(frozen=True)
class Spec:
    """Names, shapes and dtypes of a model's parameters and buffers: what a state must fit."""

    params: Mapping[str, tuple[torch.Size, torch.dtype]]
    buffers: Mapping[str, tuple[torch.Size, torch.dtype]]
    device: torch.device
    sharded: bool = False
    """Whether each rank holds a part of the parameters only."""

    def misfits(self, other: Spec) -> list[str]:
        """Return how the tensors of `other` fail to fit this one, one line each."""
        lines: list[str] = []
        for kind, mine, theirs in (
            ("parameter", self.params, other.params),
            ("buffer", self.buffers, other.buffers),
        ):
            lines += [f"missing {kind} {name} {_shaped(mine[name])}" for name in mine if name not in theirs]
            lines += [f"unexpected {kind} {name} {_shaped(theirs[name])}" for name in theirs if name not in mine]
            lines += [
                f"{kind} {name} is {_shaped(theirs[name])}, expected {_shaped(mine[name])}"
                for name in mine
                if name in theirs and theirs[name] != mine[name]
            ]
        return lines


def spec_of(params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], device: torch.device) -> Spec:
    """Return names, shapes and dtypes of tensors by name."""
    return Spec(
        {name: (tensor.shape, tensor.dtype) for name, tensor in params.items()},
        {name: (tensor.shape, tensor.dtype) for name, tensor in buffers.items()},
        device,
        any_sharded(params.values()),
    )


def _shaped(shape_dtype: tuple[torch.Size, torch.dtype]) -> str:
    return f"{list(shape_dtype[0])} {str(shape_dtype[1]).removeprefix('torch.')}"


@dataclass(frozen=True)
class OptimState:
    """What an optimizer remembers.

    `kind` is the class; `state` maps a parameter's name to what is kept for it; `groups` holds, for each parameter
    group, the values that the optimizer itself changed since it was made (most change none), and `attributes` likewise
    those of its own attributes. `options` are the values it was made with; they are no part of a state's value.
    `rules` has the memory of the update rules around it, by their names.
    """

    kind: str
    state: Mapping[str, Mapping[str, Any]]
    groups: tuple[Mapping[str, Any], ...]
    options: tuple[Mapping[str, Any], ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """One value of all tensors. Whoever holds one never writes to it."""

    params: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    optim: OptimState


def summarised(shape: torch.Size, dtype: torch.dtype) -> dict[str, object]:
    """Summarise a tensor as plain values."""
    return {"shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}


def plain_layout(tensor: Tensor) -> str | None:
    """Return in words what is special about a tensor's layout; None for a plain one, whose elements lie in memory."""
    if type(tensor.detach()) is not Tensor:
        return f"a {type(tensor.detach()).__name__}, which is a tensor of its own kind"
    if tensor.layout != torch.strided:
        return f"laid out as {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_quantized:
        return "quantized"
    return "on the meta device, without memory" if tensor.is_meta else None


class _Sparse(Flat):
    """A sparse tensor, taken apart as it is: not coalesced."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach()

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:  # noqa: ARG002 - it takes the parts
        """Return where the tensor has values, and these."""
        tensor = self._tensor
        parts = {"indices": tensor._indices(), "values": tensor._values()}
        return "sparse", {**parts, "shape": tuple(tensor.shape), "coalesced": tensor.is_coalesced()}


def _flattenable(named: Mapping[str, Any]) -> dict[str, object]:
    return {
        name: _Sparse(one) if isinstance(one, Tensor) and one.layout == torch.sparse_coo else one
        for name, one in named.items()
    }


def sparse_of(parts: Mapping[str, Any]) -> Tensor:
    """Return the sparse tensor that was taken apart. Raises `ValueError` for parts that make none."""
    try:
        return torch.sparse_coo_tensor(
            parts["indices"], parts["values"], parts["shape"], is_coalesced=parts["coalesced"], check_invariants=True
        )
    except RuntimeError as error:
        raise ValueError(f"there is no such sparse tensor ({error})") from error


def copied_snapshot(snapshot: Snapshot) -> Snapshot:
    """Copy every tensor of a snapshot."""
    optim = snapshot.optim
    return Snapshot(
        clone_tree(snapshot.params),
        clone_tree(snapshot.buffers),
        replace(
            optim,
            state=clone_tree(optim.state),
            groups=clone_tree(optim.groups),
            attributes=clone_tree(optim.attributes),
            rules=clone_tree(optim.rules),
        ),
    )


def _is_plain(option: object) -> bool:
    """Return whether an optimizer's option is a value. What is none, like a function, comes from the learner again."""
    if isinstance(option, (list, tuple)):
        return all(map(_is_plain, option))
    return option is None or isinstance(option, (bool, int, float, str, Tensor))


class Source(Protocol):
    """Who holds the memory behind a live or pending handle: the workspace."""

    def read(self, handle: Tensors, reader: Callable[[Snapshot], Read]) -> Read:
        """Call `reader` with the tensors themselves, while nobody else may write them."""
        ...

    def lend(self, handle: Tensors) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Lend read-only views of the parameters and buffers."""
        ...


class Tensors:
    """A handle on one value of a training's tensors. See the module's text for its conditions."""

    __slots__ = ("__weakref__", "_lent", "generation", "lost", "owned", "source", "spec", "template")

    def __init__(self, spec: Spec, template: ModelSource, source: Source | None, owned: Snapshot | None) -> None:
        self.spec: Spec = spec
        self.template: ModelSource = template
        self.source: Source | None = source
        self.owned: Snapshot | None = owned
        self.lost: str | None = None
        self._lent: list[int] | None = None
        self.generation: int = -1
        """Which of its source's values this is. A weak reference may be gone before the handle is (in `__del__`)."""

    def read(self, reader: Callable[[Snapshot], Read]) -> Read:
        """Call `reader` with the tensors themselves: it must copy what it keeps and write nothing."""
        source = self.source
        if source is not None:
            return source.read(self, reader)
        return reader(self.whole())

    def whole(self) -> Snapshot:
        """Return the handle's own copy. Raises `StateError` with the reason where there is none."""
        if (
            self.owned is not None
            and self._lent is not None
            and self._lent != versions_of(_weights(self.owned).values())
        ):
            self.lose("somebody wrote to its tensors, which state.borrow() had lent for reading")
        if self.owned is None:
            raise StateError(f"This state's tensors are lost: {self.lost}. Go on from a state that was kept before.")
        return self.owned

    def lose(self, reason: str) -> None:
        """Give the value up: whoever asks for it is told why."""
        self.source, self.owned, self.lost = None, None, reason

    def lend(self) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Lend the parameters and buffers of the handle's own copy for a block."""
        weights = _weights(self.whole())
        self._lent = versions_of(weights.values())
        return borrow(weights)

    def snapshot(self) -> Snapshot:
        """Copy everything out: parameters, buffers and the optimizer's state."""
        return self.read(copied_snapshot)

    def params(self) -> TensorMap:
        """Return the parameters by name; each access is a copy."""
        return TensorMap(self, "params", tuple(self.spec.params))

    def buffers(self) -> TensorMap:
        """Return the buffers by name; each access is a copy."""
        return TensorMap(self, "buffers", tuple(self.spec.buffers))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensors):
            return NotImplemented
        return self.same(other)

    def same(self, other: Tensors, *, rest: bool = True) -> bool:
        """Return whether two values have equal bits, and the `rest` of what they are parts of is equal, too.

        Of sharded tensors each rank compares its parts, and all ranks get one answer (collective), whatever the `rest`
        is on each.
        """
        if not (self.sharded or other.sharded) and (self is other or not rest):
            return rest
        # Two threads that compare the same two states take their sources' locks in the same order.
        first, second = sorted((self, other), key=lambda one: id(one.source))
        return first.read(lambda one: second.read(lambda two: _same_snapshot(one, two, rest)))

    @property
    def sharded(self) -> bool:
        """Whether each rank holds a part of the parameters only."""
        return self.spec.sharded

    def __hash__(self) -> int:
        return hash((tuple(self.spec.params), tuple(self.spec.buffers)))

    def __repr__(self) -> str:
        return f"Tensors({len(self.spec.params)} parameters, {len(self.spec.buffers)} buffers)"

    def __copy__(self) -> Tensors:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Tensors:
        twin = Tensors(self.spec, self.template, None, self.snapshot())
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> NoReturn:
        raise StatePicklingError(
            "A TrainState is not pickled: loading a pickle runs code, and a state's tensors may be the live ones "
            "that a learner goes on training. Take copies with state.params, or copy.deepcopy(state)."
        )

    def parts(self, flattener: Flattener) -> dict[str, object]:
        """Return the parts of a state's tensors by name. Live ones are copied, unless `flattener` knows them."""
        snapshot: Snapshot | None = flattener.known(self)
        if snapshot is None:
            snapshot = self.owned or self.snapshot()
            flattener.know(self, snapshot)
        optim = snapshot.optim
        flattener.model = flattener.model or self.template
        another = {} if flattener.model is self.template else {"model": ANOTHER}
        options = tuple({name: one for name, one in group.items() if _is_plain(one)} for group in optim.options)
        return {
            "params": snapshot.params,
            "buffers": _flattenable(snapshot.buffers),
            "optim": {name: _flattenable(kept) for name, kept in optim.state.items()},
            "groups": optim.groups,
            "options": options,
            "kind": optim.kind,
            **({"attributes": optim.attributes} if optim.attributes else {}),
            **({"rules": optim.rules} if optim.rules else {}),
            **another,
        }

    def summary(self) -> dict[str, dict[str, dict[str, object]]]:
        """Summarise each tensor by shape and dtype."""
        return {
            kind: {name: summarised(shape, dtype) for name, (shape, dtype) in tensors.items()}
            for kind, tensors in (("params", self.spec.params), ("buffers", self.spec.buffers))
        }

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(cls.summary)
        )


def _weights(snapshot: Snapshot) -> dict[str, Tensor]:
    return {**snapshot.params, **snapshot.buffers}


def _same_snapshot(one: Snapshot, other: Snapshot, rest: bool) -> bool:
    same = (
        rest
        and same_bits(dict(one.params), dict(other.params))
        and same_bits(dict(one.buffers), dict(other.buffers))
        and one.optim.kind == other.optim.kind
        and same_bits(dict(one.optim.state), dict(other.optim.state))
        and same_bits(one.optim.groups, other.optim.groups)
        and same_bits(dict(one.optim.attributes), dict(other.optim.attributes))
        and same_bits(dict(one.optim.rules), dict(other.optim.rules))
    )
    return on_all_ranks(same, [*one.params.values(), *other.params.values()])


class TensorMap(Mapping[str, Tensor]):
    """Names to tensors, read out of a state one by one: every tensor handed out is the caller's own copy."""

    __slots__ = ("_handle", "_kind", "_names")

    def __init__(self, handle: Tensors, kind: str, names: tuple[str, ...]) -> None:
        self._handle = handle
        self._kind = kind
        self._names = names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(f"{name!r}: the state's {self._kind} are {', '.join(self._names) or 'none'}")

        def one(snapshot: Snapshot) -> Tensor:
            tensors: Mapping[str, Tensor] = getattr(snapshot, self._kind)
            tensor = whole(tensors[name])
            return tensor.detach().clone() if tensor is tensors[name] else tensor

        return self._handle.read(one)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<{self._kind}: {', '.join(self._names)}>"
