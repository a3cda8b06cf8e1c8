"""What a pass writes before the optimizer does: kept before it, put back when it fails, and seen where torch is blind.

Buffers are written by many models (BatchNorm's statistics), parameters by few (an embedding with `max_norm`, a teacher
that follows its student). torch counts the writes to each tensor in a version counter, but not all of them: it does
not mark the statistics of `batch_norm` as written, nor what goes through `.data`. So some of the first passes, in
training and in eval, are looked at: all is kept before the first, later what no gradient has reached, and compared
after it, by bits and by counters. What was ever seen written is kept before each pass from then on. Any other pass
costs a comparison of counters, and a copy of what is written; if it is the first to write something, `unforeseen` tells
of it. Where no hook may write to parameters in the backward pass, their copies are let go before it, so that they and
the gradients do not add up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from nntrain.errors import StateError
from nntrain.values.bits import same_tensor
from nntrain.values.shards import is_sharded, own_part, part_like
from nntrain.values.trees import clone_tree

LOOKED_AT: Final = frozenset({0, 1, 3, 7})
"""The passes that are looked at, in training and in eval, by number. More than the first: a teacher that begins as a
copy of its student gets the bits that it has until the student was trained, and the first rates may be 0."""


class ForwardWrites:
    """The watch over one module's live parameters and buffers. Only the workspace calls it."""

    def __init__(self, module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        self._module = module
        self._buffers = buffers
        self._params = params
        self._all = {**{name: own_part(param) for name, param in params.items()}, **buffers}
        self._homes, self._empty_homes = _homes(module, buffers)
        self._places = _places(module)
        renormed = {
            id(home.weight)
            for home in module.modules()
            if isinstance(home, (nn.Embedding, nn.EmbeddingBag)) and home.max_norm is not None
        }
        self._written = {name for name, tensor in self._all.items() if name in buffers or id(tensor) in renormed}
        """What may be written: the buffers, an embedding that shortens its rows, and all that was seen written."""
        self._untrained: Collection[str] = self._all.keys()
        """What a look compares: all at first, then what may be written and what no gradient reached."""
        self._silent: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        """What is written without torch's version counters noticing; in training, and in eval."""
        self._passes = {True: 0, False: 0}
        self._looking = False
        """Whether the pass under way is looked at."""
        self._anew = False
        """Whether what was seen written is compared, too. Later looks leave it out: a comparison waits for a device."""
        self._seen: set[str] = set()
        self.unforeseen: str = ""
        """The names of what a pass was the first to write, so that nothing was kept of it."""
        self._kept: dict[str, Tensor] = {}
        self._old: list[Tensor] = []
        self._old_versions: list[int] = []
        """What is kept before a pass: the live tensors, their copies, and their versions then; none if it is stale."""
        self._others: dict[str, Tensor] = {}
        self._other_tensors: list[Tensor] = []
        self._other_versions: list[int] = []
        self._keep_all_of(self._written)

    def save(self, *, training: bool | None = None, looking: bool = False) -> None:
        """Keep what a pass may write; costs nothing where nobody wrote to it since the last time.

        Passes in `training` or in eval are counted, and some of them looked at; a `looking` one always is. One that was
        recorded is neither: it writes what it wrote when it ran.
        """
        if training is not None:
            number = self._passes[training]
            self._passes[training] = number + 1
            looking = number in LOOKED_AT
            self._anew = not number
        else:
            self._anew = looking
        self._looking = looking
        wanted = self._untrained if looking else self._written
        if len(wanted) != len(self._kept):
            self._keep_all_of(wanted)
        self._other_versions = [] if training is None else [live._version for live in self._other_tensors]
        if not self._kept:
            return
        versions = [live._version for live in self._kept.values()]
        if versions == self._old_versions:
            return
        live = [tensor.detach() if tensor.requires_grad else tensor for tensor in self._kept.values()]
        if self._old:
            copy_all(self._old, live)
        else:
            self._old = [clone_tree(tensor) for tensor in live]
        self._old_versions = versions

    def _keep_all_of(self, names: Collection[str]) -> None:
        self._kept = {name: live for name, live in self._all.items() if name in names}
        self._others = {name: live for name, live in self._all.items() if name not in names}
        self._other_tensors = list(self._others.values())
        self._old, self._old_versions, self._other_versions = [], [], []

    def _let_go(self) -> None:
        """Let the copies of what was not written go, after a look."""
        if len(self._kept) == len(self._written):
            return
        still = [index for index, name in enumerate(self._kept) if name in self._written]
        old, versions = [self._old[index] for index in still], [self._old_versions[index] for index in still]
        self._keep_all_of(self._written)
        self._old, self._old_versions = old, versions
        self._other_versions = [live._version for live in self._others.values()]

    def forget(self) -> None:
        """Forget what was saved: another value is live now."""
        self._old_versions, self.unforeseen = [], ""

    def stepped(self) -> None:
        """Forget what was saved of parameters: the optimizer wrote them, and its writes may not be counted."""
        self.unforeseen = ""
        if len(self._kept) > len(self._buffers):
            self._old_versions = []

    def forwarded(self, *, training: bool) -> None:
        """Free the copies of parameters that a forward pass did not write: the gradients will take memory."""
        if self._looking and not self.has_backward_hooks():
            self._look(training)
            self._let_go()

    def ran(self, *, training: bool) -> None:
        """See to what a pass has written, and keep the identity of buffers."""
        if self._homes or self._empty_homes:
            self.keep_identity()
        if self._looking:
            self._check_places()
            self._look(training)
            self._let_go()
            self._looking = False
            if training:
                reached = {name for name, param in self._params.items() if param.grad is not None}
                self._untrained = {name for name in self._all if name in self._written or name not in reached}
        if self._other_versions and self._other_versions != [live._version for live in self._other_tensors]:
            self._find_unforeseen()
        self._other_versions = []  # what is written after the pass is the optimizer's
        if self._silent[training]:
            touch(list(self._silent[training].values()))

    def differing(self) -> list[str]:
        """Return the names of what was kept and is other now, by bits or by versions."""
        kept = zip(self._kept.items(), self._old, self._old_versions, strict=True)
        return [name for (name, live), old, version in kept if live._version != version or not same_tensor(live, old)]

    def _look(self, training: bool) -> None:
        """Compare what was kept with what is there now."""
        for (name, live), old, version in zip(self._kept.items(), self._old, self._old_versions, strict=True):
            if live.shape != old.shape:
                raise StateError(
                    f"The model changed the shape of its {name} from {list(old.shape)} to {list(live.shape)} in the "
                    f"forward pass. A state's tensors keep their shapes: make it with the shape that it will have, or "
                    f"run one batch through the model before you make the learner, as observers of quantisation need."
                )
            counted = live._version != version
            if counted or ((self._anew or name not in self._seen) and not same_tensor(live, old)):
                self._written.add(name)
                self._seen.add(name)
                if not counted:
                    self._silent[training][name] = live

    def _find_unforeseen(self) -> None:
        """Find what was written and not kept; from the next pass on it is kept."""
        versions = [live._version for live in self._others.values()]
        if self._other_versions and versions != self._other_versions:
            changed = zip(self._others, self._other_versions, versions, strict=True)
            names = [name for name, before, now in changed if before != now]
            self._written.update(names)
            self.unforeseen = ", ".join(names)
        self._other_versions = []

    def unforeseen_now(self) -> bool:
        """Return whether a pass that failed was the first to write something, of which nothing was kept."""
        self._find_unforeseen()
        return bool(self.unforeseen)

    def has_backward_hooks(self) -> bool:
        """Return whether a hook, which may write to parameters, waits for the backward pass."""
        kinds = ("_backward_hooks", "_backward_pre_hooks", "_post_accumulate_grad_hooks")
        live = (*self._params.values(), *self._buffers.values(), *self._module.modules())
        return any(getattr(one, kind, None) for one in live for kind in kinds)

    def before(self, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `live` tensors by name as they were at `save`."""
        if not self.changed():
            return dict(live)
        old = dict(zip(self._kept, self._old, strict=True))
        return {name: _like(old[name], tensor) if name in old else tensor for name, tensor in live.items()}

    def changed(self) -> bool:
        """Return whether anything was written since `save`."""
        if self.unforeseen:
            return True
        return bool(self._old_versions) and self._old_versions != [live._version for live in self._kept.values()]

    def written(self) -> list[Tensor]:
        """Return what was written since `save`, as far as the looks have shown or the counters tell."""
        return [
            live
            for live, version in zip(self._kept.values(), self._old_versions, strict=True)
            if live._version != version
        ]

    def _check_places(self) -> None:
        """Raise `StateError` where a forward pass registered a tensor, or put another parameter in one's place."""
        for home, parameters, buffers in self._places:
            made = [*(home._parameters.keys() - parameters.keys()), *(home._buffers.keys() - buffers)]
            if made:
                raise StateError(
                    f"The model registered {', '.join(made)} in the forward pass. A state holds what is there from the "
                    f"beginning: register it in __init__, with its shape, like torch.zeros(3)."
                )
            for key, parameter in parameters.items():
                if home._parameters.get(key) is not parameter:
                    raise StateError(
                        f"The model replaced its parameter {key} in the forward pass, which the optimizer would not "
                        f"see. Write into it instead: with torch.no_grad(): self.{key}.copy_(...)."
                    )

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
        for home, parameters, buffers in self._places:
            home._parameters.update(parameters)
            for made in home._parameters.keys() - parameters.keys():
                del home._parameters[made]
            for made in home._buffers.keys() - buffers:
                del home._buffers[made]
        for home, key, name in self._homes:
            home._buffers[key] = self._buffers[name]
        for home, key in self._empty_homes:
            home._buffers[key] = None
        self._find_unforeseen()
        if self._old_versions:
            # A pass that failed was not seen to; and what one that is looked at writes is not known yet.
            silent = {**self._silent[True], **self._silent[False]}
            touch(list((self._kept if self._looking else silent).values()))
        if self._kept and self.changed():
            for live, old in zip(self._kept.values(), self._old, strict=True):
                if live.shape != old.shape:
                    live.data = old.clone()
            with torch.no_grad():
                copy_all([live.detach() for live in self._kept.values()], self._old)
            self._old_versions = [live._version for live in self._kept.values()]
        self._looking = False


def _like(part: Tensor, live: Tensor) -> Tensor:
    """Return what was kept of a live tensor, of which it is this rank's part, if it is sharded."""
    return part_like(part, live) if is_sharded(live) else part


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


def _places(module: nn.Module) -> list[tuple[nn.Module, dict[str, nn.Parameter | None], frozenset[str]]]:
    """Return each submodule's own parameters, and the names of its buffers. A scripted one's cannot change."""
    return [
        (home, dict(home._parameters), frozenset(home._buffers))
        for home in module.modules()
        if not isinstance(home, torch.jit.ScriptModule)
    ]
