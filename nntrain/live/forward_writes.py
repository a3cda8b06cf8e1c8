"""What a forward pass writes: kept before it, put back when it fails, and seen even where torch does not count it.

Buffers are written by many models (BatchNorm's statistics), parameters by few (an embedding with `max_norm`). torch
counts the writes to each tensor in a version counter, but not all of them: it does not mark the statistics of
`batch_norm` as written, nor what goes through `.data`. So the first forward pass, in training and in eval, is compared
with what was before, bit by bit; later ones cost a comparison of version counters, and a copy of what is written.
The copies of parameters are let go before the first backward pass, so that they and the gradients do not add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from nntrain.errors import StateError
from nntrain.values.bits import same_tensor
from nntrain.values.trees import clone_tree


class ForwardWrites:
    """The watch over one module's live parameters and buffers. Only the workspace calls it."""

    def __init__(self, module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        self._buffers = buffers
        self._homes, self._empty_homes = _homes(module, buffers)
        self._watched = {**params, **buffers}
        """What a forward pass may write; all, until one was seen."""
        self._renormed = {
            id(home.weight)
            for home in module.modules()
            if isinstance(home, (nn.Embedding, nn.EmbeddingBag)) and home.max_norm is not None
        }
        """What an embedding writes when a row of it grows too long, which may be later."""
        self._silent: dict[bool, list[Tensor]] = {}
        """What it writes without torch's version counters noticing; in training, and in eval, once seen."""
        self.nothing: set[bool] = set()
        """For training, and for eval, once a pass has shown that there is nothing to watch."""
        self._old: list[Tensor] = []
        self._old_versions: list[int] = []

    def save(self) -> None:
        """Keep what a forward pass may write; costs nothing where nobody wrote to it since the last time."""
        versions = [live._version for live in self._watched.values()]
        if versions == self._old_versions:
            return
        live = [tensor.detach() if tensor.requires_grad else tensor for tensor in self._watched.values()]
        if self._old:
            copy_all(self._old, live)
        else:
            self._old = [clone_tree(tensor) for tensor in live]
        self._old_versions = versions

    def forget(self) -> None:
        """Forget what was saved: another value is live now."""
        self._old_versions = []

    def stepped(self) -> None:
        """Forget what was saved of parameters: the optimizer wrote them, and its writes may not be counted."""
        if len(self._watched) > len(self._buffers):
            self._old_versions = []

    def forwarded(self, *, training: bool) -> None:
        """Free the copies of parameters that a first forward pass did not write: the gradients will take memory."""
        if training in self._silent:
            return
        names = list(self._watched)
        kept = [
            index
            for index, (name, old) in enumerate(zip(names, self._old, strict=True))
            if name in self._buffers
            or id(self._watched[name]) in self._renormed
            or not same_tensor(self._watched[name], old)
        ]
        self._watched = {names[index]: self._watched[names[index]] for index in kept}
        self._old = [self._old[index] for index in kept]
        self._old_versions = [self._old_versions[index] for index in kept]

    def ran(self, *, training: bool) -> None:
        """Count what a forward pass has written, and keep the identity of buffers."""
        if self._homes or self._empty_homes:
            self.keep_identity()
        if training not in self._silent:
            self._probe(training)
            if not (self._watched or self._homes or self._empty_homes):
                self.nothing.add(training)
        touch(self._silent[training])

    def before(self, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `live` tensors by name as they were at `save`."""
        if not self.changed():
            return dict(live)
        old = dict(zip(self._watched, self._old, strict=True))
        return {name: old.get(name, tensor) for name, tensor in live.items()}

    def changed(self) -> bool:
        """Return whether anything was written since `save`."""
        return bool(self._old_versions) and self._old_versions != [live._version for live in self._watched.values()]

    def written(self) -> list[Tensor]:
        """Return what was written since `save`, as far as the first passes have shown or the counters tell."""
        return [
            live
            for live, version in zip(self._watched.values(), self._old_versions, strict=True)
            if live._version != version
        ]

    def _probe(self, training: bool) -> None:
        """Find out, at a first forward pass, which parameters it writes, and what it writes unnoticed."""
        before = dict(zip(self._watched, zip(self._old, self._old_versions, strict=True), strict=True))
        written = {name for name, live in self._watched.items() if not same_tensor(live, before[name][0])}
        self._silent[training] = [
            live for name, live in self._watched.items() if name in written and live._version == before[name][1]
        ]

    def keep_identity(self) -> None:
        """Where a forward pass put another tensor in a buffer's place, take its value and put the live one back."""
        replaced: list[tuple[Tensor, Tensor]] = []
        for home, key, name in self._homes:
            found = home._buffers[key] if key in home._buffers else None  # noqa: SIM401 - TorchScript's has no `get`
            live = self._buffers[name]
            if found is live:
                continue
            home._buffers[key] = live
            if found is None or found.shape != live.shape or found.dtype != live.dtype:
                given = "None" if found is None else f"{found.dtype} {list(found.shape)}"
                raise StateError(
                    f"The model replaced its buffer {name} ({live.dtype} {list(live.shape)}) by {given}. "
                    f"Buffers keep their shape and dtype in training."
                )
            replaced.append((live, found))
        if replaced:
            # All are read before one is written: a buffer may have taken another's place.
            values = [found.detach().clone() for _, found in replaced]
            with torch.no_grad():
                for (live, _), value in zip(replaced, values, strict=True):
                    live.copy_(value)
        for home, key in self._empty_homes:
            if key in home._buffers and home._buffers[key] is not None:
                home._buffers[key] = None
                raise StateError(
                    f"The model made its buffer {key}, registered as None, in the forward pass. A state holds what "
                    f"is there from the beginning: register it with its shape, like torch.zeros(3)."
                )

    def restore(self) -> None:
        """Put back what was written since `save`."""
        for home, key, name in self._homes:
            home._buffers[key] = self._buffers[name]
        for home, key in self._empty_homes:
            home._buffers[key] = None
        if self._old_versions:
            # A forward pass that failed was not seen to; and what a first one writes is not known yet.
            unseen = self._watched.values() if len(self._silent) < 2 else chain(*self._silent.values())
            touch(list(unseen))
        if self.changed():
            with torch.no_grad():
                copy_all([live.detach() for live in self._watched.values()], self._old)
            self._old_versions = [live._version for live in self._watched.values()]


def copy_all(to: list[Tensor], values: list[Tensor]) -> None:
    """Copy many tensors at once: one kernel launch for all where the device has one."""
    torch._foreach_copy_(to, values)  # pyright: ignore[reportPrivateImportUsage] # torch's only fused copy


def touch(tensors: Sequence[Tensor]) -> None:
    """Count a write on the tensors' version counters, and change nothing."""
    if tensors:
        torch.autograd.graph.increment_version(tensors)


def _homes(
    module: nn.Module, buffers: Mapping[str, Tensor]
) -> tuple[list[tuple[nn.Module, str, str]], list[tuple[nn.Module, str]]]:
    """Find where the buffers are registered, and the places registered as None."""
    names = {id(tensor): name for name, tensor in buffers.items()}
    places = [(home, key, tensor) for home in module.modules() for key, tensor in home._buffers.items()]
    return (
        [(home, key, names[id(tensor)]) for home, key, tensor in places if tensor is not None],
        [(home, key) for home, key, tensor in places if tensor is None],
    )
