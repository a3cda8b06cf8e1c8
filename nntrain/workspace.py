"""The workspace: one set of live tensors, written in place, that looks like values from outside.

It owns a module, an optimizer and their tensors, whose identity stays for its life. States see them through `Tensors`
handles (see `nntrain.tensors`); the workspace knows the one handle whose value the live tensors hold only by a weak
reference. The argument that no kept value ever changes:

1. The live tensors are written in four places only: `_load` (another value is brought in), the forward pass (buffers,
   and the parameters that the first one is seen to write, such as an embedding's with `max_norm`), `_write` (the
   optimizer), and `_restore`.
2. Before `_load` and `_write`, `_detach` looks whether anybody still holds the current handle. If so, it first
   receives a copy of its own, with all as it was before the forward pass. If not, nobody can see the write.
3. A forward pass that fails, or is not followed by `_write`, puts back what it wrote, or (eval phases whose model
   writes) becomes a new value by the same look as in 2.
4. Everything handed out is a copy, or lent for a block that refuses writes; readers in other threads wait.

So: one copy for each state that somebody kept, none otherwise. The caller of `compute` and `commit` must drop its
own reference to the old handle before `commit`, or it is one who kept it.

`compute` runs the forward and backward pass and gives a *pending* handle; `commit` lets the optimizer write. Between
the two, subscribers to `after_batch` are asked: one that raises costs nothing, since nothing was written; one that
reads the new weights makes the workspace write early, with the old value safe in a copy.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from nntrain.bits import same_bits, same_tensor
from nntrain.borrowing import lent
from nntrain.errors import BorrowError, BusyError, ConfigError, StateError
from nntrain.modules import make_module
from nntrain.randomness import generators, kept
from nntrain.tensors import ModelSource, OptimState, Snapshot, Spec, Tensors, copied, copied_snapshot

Read = TypeVar("Read")
Schedule = Callable[[int], float]


class OptimizerFactory(Protocol):
    """Anything that makes an optimizer from parameters and `lr`: a class of torch.optim, a partial, a function."""

    def __call__(self, params: Any, /, *, lr: float) -> torch.optim.Optimizer:
        """Make the optimizer."""
        ...


class Workspace:
    """The live tensors of one learner. A resource, no value: equality and `replace` of learners do not see it."""

    def __init__(
        self,
        template: ModelSource,
        optim_class: OptimizerFactory,
        lr: float | Schedule,
        device: torch.device | None,
        bits: int,
    ) -> None:
        self.template = template
        module = make_module(template, bits)
        first = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
        wanted = device if device is not None else first
        self.module = _own_memory(module.to(wanted))
        self.params = dict(self.module.named_parameters())
        self.buffers = dict(self.module.named_buffers())
        self.device = next((tensor.device for tensor in (*self.params.values(), *self.buffers.values())), wanted)
        self.spec = _spec_of(self.params, self.buffers, self.device)
        if not any(param.requires_grad for param in self.params.values()):
            raise ConfigError(
                "The model has no parameter that requires a gradient, so there is nothing to train. "
                "Unfreeze one (param.requires_grad_(True)), or pass a model with parameters."
            )
        self.generators = generators(self.device)
        """torch's global generators that a step draws from."""
        self._buffer_homes, self._empty_homes = _homes(self.module, self.buffers)
        self._addresses = {one.untyped_storage()._cdata for one in (*self.params.values(), *self.buffers.values())}
        self._schedule = lr if callable(lr) else None
        self._make_optimizer(optim_class, lr)
        self._fresh_optim = self._read_optim(copied)
        self._fresh_bits: int | None = bits
        self._current: weakref.ref[Tensors] | None = None
        self._pending: weakref.ref[Tensors] | None = None
        self._step: int | None = None
        self._untouched = False
        self._closure: Callable[[], Tensor] | None = None
        self._param_list = list(self.params.values())
        self._watched = {**self.params, **self.buffers}
        """What a forward pass may write, and so is kept until the step is done; all, until one was seen."""
        self._silent: dict[bool, list[Tensor]] = {}
        """What it writes without torch's version counters noticing; in training, and in eval, once seen."""
        self._old: list[Tensor] = []
        self._old_versions: list[int] = []
        self._lent: list[int] | None = None
        """The versions of the live tensors when the current value was lent, if it was."""
        self.lock = threading.RLock()
        """Held for each step and each read of live tensors."""

    # -- making ---------------------------------------------------------------------------------------------------

    def _make_optimizer(self, optim_class: OptimizerFactory, lr: float | Schedule) -> None:
        first = float(lr(0)) if callable(lr) else lr
        made_with = first if first != 0.0 or not callable(lr) else 1.0
        self.optimizer = optim_class(list(self.params.values()), lr=made_with)
        if not hasattr(self.optimizer, "param_groups") or not hasattr(self.optimizer, "step"):
            raise ConfigError(
                f"optim_class made {type(self.optimizer).__name__}, expected a torch.optim.Optimizer. Pass a class "
                f"like torch.optim.SGD, or a function of (params, lr) that returns an optimizer."
            )
        self._lr_ratios = [
            float(group["lr"]) / made_with if callable(lr) else 1.0 for group in self.optimizer.param_groups
        ]
        # torch's own optimizers, and those derived from one, write under torch's version counters.
        self._counts = any(
            base.__module__.startswith("torch.optim.") and base is not torch.optim.Optimizer
            for base in type(self.optimizer).__mro__
        )
        self._brought_in = False
        self._kind = f"{type(self.optimizer).__module__}.{type(self.optimizer).__qualname__}"
        self._fresh_groups = [_group_values(group) for group in self.optimizer.param_groups]
        self._param_names = {id(param): name for name, param in self.params.items()}
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                if id(param) not in self._param_names:
                    raise ConfigError(
                        f"The optimizer holds a tensor {list(param.shape)} that is no parameter of the model. "
                        f"Give it only parameters out of those it is passed."
                    )
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        self.needs_closure = closure is not None and closure.default is inspect.Parameter.empty

    def fresh(self, bits: int) -> Tensors:
        """Bring in the template's own weights and a fresh optimizer; give the handle on them."""
        with self.lock:
            if self._fresh_bits is not None and (isinstance(self.template, nn.Module) or self._fresh_bits == bits):
                # Just made, never trained: the live tensors hold a fresh copy, if the caller's module is as it was.
                handle = self._fresh_handle()
                if handle is not None:
                    return handle
            source = self.template if isinstance(self.template, nn.Module) else make_module(self.template, bits)
            params, buffers = dict(source.named_parameters()), dict(source.named_buffers())
            spec = _spec_of(params, buffers, self.device)
            handle = Tensors(spec, self.template, None, Snapshot(params, buffers, self._fresh_optim))
            self.check_fit(handle)
            self._load(handle)
            return self._now_live()

    def _fresh_handle(self) -> Tensors | None:
        self._fresh_bits = None
        if isinstance(self.template, nn.Module) and not (
            same_bits(dict(self.template.named_parameters()), self.params)
            and same_bits(dict(self.template.named_buffers()), self.buffers)
        ):
            return None
        return self._now_live()

    def _now_live(self) -> Tensors:
        handle = Tensors(self.spec, self.template, self, None)
        self._current = weakref.ref(handle)
        return handle

    # -- reading --------------------------------------------------------------------------------------------------

    def held(self, handle: Tensors) -> AbstractContextManager[object]:
        """Give the lock to step from `handle`: this workspace's, with its source's where that is another one.

        Two threads that hand each other's states around take the same two locks in the same order.
        """
        source = handle.source
        if source is self or not isinstance(source, Workspace):
            return self.lock
        both = ExitStack()
        for one in sorted((self, source), key=id):
            both.enter_context(one.lock)
        return both

    def read(self, handle: Tensors, reader: Callable[[Snapshot], Read]) -> Read:
        """Call `reader` with the handle's tensors; live ones cannot be written meanwhile."""
        with self.lock:
            self._settle(handle)
            if handle.source is None:
                return reader(handle.whole())
            return reader(self._live_snapshot())

    @contextmanager
    def lend(self, handle: Tensors) -> Iterator[Mapping[str, Tensor]]:
        """Lend views of the live tensors for a block."""
        with self.lock:
            self._settle(handle)
            live = handle.source is not None
            snapshot = self._live_snapshot() if live else handle.whole()
            if live:
                self._lent = self._versions()
            with lent({**snapshot.params, **snapshot.buffers}) as views:
                yield views

    def _settle(self, handle: Tensors) -> None:
        """Make the live tensors hold the value of a handle that is pending or live."""
        if self._pending is not None and self._pending() is handle:
            self._write(handle)
        elif handle.source is self:
            self._check_lent(handle)
        if handle.source is not None and self._changed_in_forward():
            # The old value is read while a batch is being worked on: its buffers are those from before.
            self._give_copy(handle)

    def _live_snapshot(self) -> Snapshot:
        return Snapshot(self.params, self.buffers, self._read_optim(lambda tree: tree))

    def _read_optim(self, change: Callable[[Any], Any]) -> OptimState:
        state = {
            self._param_names[id(param)]: change(dict(kept)) for param, kept in self.optimizer.state.items() if kept
        }
        groups = tuple(
            {
                name: change(value)
                for name, value in _group_values(group).items()
                if not (name in fresh and same_bits(value, fresh[name])) and (name != "lr" or self._schedule is None)
            }
            for group, fresh in zip(self.optimizer.param_groups, self._fresh_groups, strict=True)
        )
        return OptimState(self._kind, state, groups)

    # -- stepping -------------------------------------------------------------------------------------------------

    def ready(self, handle: Tensors) -> None:
        """Make the live tensors hold the handle's value, whoever's it is."""
        with self.lock:
            if self._current is not None and self._current() is handle:
                self._check_lent(handle)
                self._lent = None
                return
            if handle.spec is not self.spec:
                self.check_fit(handle)
            self._load(handle)
            self._current = weakref.ref(handle)

    def check_fit(self, handle: Tensors) -> None:
        """Raise `StateError` with what is missing, unexpected or differently shaped."""
        misfits = self.spec.misfits(handle.spec)
        if misfits:
            raise StateError(
                "The state's tensors do not fit the learner's model:\n  "
                + "\n  ".join(misfits)
                + "\nStep it with a learner of the same model, or begin with learner.init()."
            )

    def compute(self, forward: Callable[[], Tensor], *, step: int | None) -> None:
        """Run `forward` (which returns the loss) and, in training (`step` given), the backward pass.

        A failure puts back what was written. Afterwards `commit` or `abandon` is due.
        """
        if self._watched:
            self._save()
        self._step = step
        try:
            if step is None:
                forward()
            else:
                loss = self._backward(forward)
                if self.needs_closure:
                    self._closure = self._closure_over(forward, loss.detach())
            if self._buffer_homes or self._empty_homes:
                self._keep_identity()
            training = step is not None
            if training not in self._silent:
                self._probe(training)
            for tensor in self._silent[training]:
                _touch(tensor)
        except BaseException:
            self._undo()
            raise

    @staticmethod
    def _backward(forward: Callable[[], Tensor]) -> Tensor:
        with torch.enable_grad():
            loss = forward()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        return loss

    def _closure_over(self, forward: Callable[[], Tensor], first_loss: Tensor) -> Callable[[], Tensor]:
        """Give the closure for optimizers that evaluate several times; the first evaluation is made already."""
        first = [first_loss]
        noise = [source.get_state() for source in self.generators]

        def closure() -> Tensor:
            if first:
                # Whoever drew numbers since the first evaluation must not change the ones that follow.
                for source, state in zip(self.generators, noise, strict=True):
                    source.set_state(state)
                return first.pop()
            self._clear_gradients()
            return self._backward(forward)

        return closure

    def pending(self, current: Tensors) -> Tensors:
        """Give the handle on the value after this batch.

        Where nothing is to be written (eval, with a model that wrote no buffer), it is the `current` one.
        """
        if self._step is None and not self._changed_in_forward():
            return current
        handle = Tensors(self.spec, self.template, self, None)
        self._pending = weakref.ref(handle)
        return handle

    def commit(self, handle: Tensors) -> None:
        """Let the optimizer write, unless a reader made it write already."""
        if self._pending is not None and self._pending() is handle:
            self._write(handle)

    def abandon(self) -> None:
        """End a batch that is not to be committed: nothing is written, unless somebody kept the pending handle."""
        pending = self._pending() if self._pending is not None else None
        if pending is not None:
            try:
                self._write(pending)
            except Exception:  # noqa: BLE001 - the kept handle is lost, and says so when it is asked
                del pending
        self._undo()

    def _undo(self) -> None:
        self._pending = None
        self._closure = None
        self._clear_gradients()
        self._restore()

    def _write(self, handle: Tensors) -> None:
        """Write in place, after seeing to whoever still holds the old value."""
        self._pending = None
        self._detach()
        if self._step is not None:
            self._optimize(handle, self._step)
        if self._watched and self._changed_in_forward():
            self._keep_identity()  # an optimizer that evaluates the model may have put others in their place
            self._old_versions = []
        self._lent = None
        self._current = weakref.ref(handle)
        self._fresh_bits = None

    def _optimize(self, handle: Tensors, step: int) -> None:
        known = len(self.optimizer.state)
        before = self._written() if self._counts else None
        self._untouched = True
        try:
            if self._schedule is not None:
                self._set_lr(self._schedule(step), step)
            try:
                self._optimizer_step()
            except KeyError:
                # A memory made by the same class with other options (Adam's amsgrad) lacks what these options need.
                if not self._brought_in or before != self._written():
                    raise
                self.optimizer.state.clear()
                self._optimizer_step()
            if not known:
                self._check_memory()
        except BaseException as error:
            # Optimizers of other packages may write past the version counters.
            for param in list(self.optimizer.state)[known:]:
                del self.optimizer.state[param]
            self._untouched = self._untouched or (before is not None and before == self._written())
            handle.source = None
            handle.lost = f"the optimizer failed while it was writing ({type(error).__name__}: {error})"
            self._restore()
            raise
        finally:
            self._closure = None
            self._clear_gradients()
        self._brought_in = False

    def _optimizer_step(self) -> None:
        self._untouched = False
        if self._closure is not None:
            with kept(self.generators):
                self.optimizer.step(self._closure)  # type: ignore[arg-type] # torch: float, and gives it tensors
        else:
            self.optimizer.step()

    def _check_memory(self) -> None:
        strangers = [key for key in self.optimizer.state if id(key) not in self._param_names]
        if strangers:
            raise ConfigError(
                f"The optimizer {self._kind} keeps state under {strangers[0]!r:.40}, which is no parameter. A state "
                f"holds what is kept for each parameter, and what a parameter group holds: keep it there."
            )

    def revived(self) -> Tensors | None:
        """After a write that failed: a handle on the old value, where the optimizer had not touched it yet."""
        return self._now_live() if self._untouched else None

    # -- whoever kept the old value -------------------------------------------------------------------------------

    def _detach(self) -> None:
        """Give the current handle, if anybody holds it, a copy of its own."""
        current = self._current() if self._current is not None else None
        if current is not None and current.source is self:
            self._give_copy(current)
        self._current = None

    def _give_copy(self, handle: Tensors) -> None:
        live = self._live_snapshot()
        if self._changed_in_forward():
            old = dict(zip(self._watched, self._old, strict=True))
            live = Snapshot(
                {name: old.get(name, tensor) for name, tensor in live.params.items()},
                {name: old.get(name, tensor) for name, tensor in live.buffers.items()},
                live.optim,
            )
        handle.owned = copied_snapshot(live)
        handle.source = None

    def _check_lent(self, handle: Tensors) -> None:
        if handle.source is self and self._lent is not None and self._lent != self._versions():
            self._lose("somebody wrote to its tensors after state.borrow() had taken them back")

    def _lose(self, reason: str) -> None:
        current = self._current() if self._current is not None else None
        if current is not None:
            current.source = None
            current.lost = reason
        self._current = None
        self._lent = None
        raise BorrowError(f"The state's tensors are lost: {reason}. Go on from a state that was kept before.")

    def _load(self, handle: Tensors) -> None:
        self._detach()
        self._undo()
        handle.read(self._copy_in)
        self._old_versions = []
        self._lent = None
        self._fresh_bits = None

    def _copy_in(self, snapshot: Snapshot) -> None:
        with torch.no_grad():
            pairs: list[tuple[Tensor, Tensor]] = [
                (self.params[name], tensor) for name, tensor in snapshot.params.items()
            ]
            pairs += [(self.buffers[name], tensor) for name, tensor in snapshot.buffers.items()]
            if pairs:
                _copy_all([live for live, _ in pairs], [theirs.detach() for _, theirs in pairs])
            optim = snapshot.optim if snapshot.optim.kind == self._kind else self._fresh_optim
            self._brought_in = True
            for name, param in self.params.items():
                kept = optim.state.get(name)
                if kept is None:
                    self.optimizer.state.pop(param, None)
                else:
                    self.optimizer.state[param] = _taken_over(self.optimizer.state.get(param, {}), kept, self.device)
            for index, (group, fresh) in enumerate(zip(self.optimizer.param_groups, self._fresh_groups, strict=True)):
                changed = optim.groups[index] if index < len(optim.groups) else {}
                group.update(copied({**fresh, **changed}))

    # -- small things ---------------------------------------------------------------------------------------------

    def _set_lr(self, lr: object, step: int) -> None:
        if isinstance(lr, bool) or not isinstance(lr, (int, float)):
            raise ConfigError(f"The lr schedule returned {lr!r} at step {step}; expected a number.")
        for group, ratio in zip(self.optimizer.param_groups, self._lr_ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * ratio)
            else:
                group["lr"] = lr * ratio

    def _clear_gradients(self) -> None:
        for param in self._param_list:
            param.grad = None

    def _versions(self) -> list[int]:
        return [tensor._version for tensor in (*self.params.values(), *self.buffers.values())]

    def _written(self) -> list[object]:
        """Give what tells whether an optimizer of torch's has written anything yet."""
        seen: list[object] = [param._version for param in self._param_list]
        for memory in self.optimizer.state.values():
            seen += [value._version if isinstance(value, Tensor) else value for value in memory.values()]
        return seen

    def _save(self) -> None:
        """Keep what a forward pass may write; costs nothing where nobody wrote to it since the last time."""
        versions = [live._version for live in self._watched.values()]
        if versions == self._old_versions:
            return
        live = [tensor.detach() for tensor in self._watched.values()]
        if self._old:
            _copy_all(self._old, live)
        else:
            self._old = [copied(tensor) for tensor in live]
        self._old_versions = versions

    def _changed_in_forward(self) -> bool:
        return bool(self._old_versions) and self._old_versions != [live._version for live in self._watched.values()]

    def _probe(self, training: bool) -> None:
        """Find out, at a first forward pass, which parameters it writes, and what it writes unnoticed."""
        before = dict(zip(self._watched, zip(self._old, self._old_versions, strict=True), strict=True))
        written = {name for name, live in self._watched.items() if not same_tensor(live, before[name][0])}
        self._silent[training] = [
            live for name, live in self._watched.items() if name in written and live._version == before[name][1]
        ]
        self._watched = {name: live for name, live in self._watched.items() if name in self.buffers or name in written}
        self._old = [before[name][0] for name in self._watched]
        self._old_versions = [before[name][1] for name in self._watched]

    def _keep_identity(self) -> None:
        """Where a forward pass put another tensor in a buffer's place, take its value and put the live one back."""
        replaced: list[tuple[Tensor, Tensor]] = []
        for home, key, name in self._buffer_homes:
            found = home._buffers.get(key)
            live = self.buffers[name]
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
            if home._buffers.get(key) is not None:
                home._buffers[key] = None
                raise StateError(
                    f"The model made its buffer {key}, registered as None, in the forward pass. A state holds what "
                    f"is there from the beginning: register it with its shape, like torch.zeros(3)."
                )

    def _restore(self) -> None:
        for home, key, name in self._buffer_homes:
            home._buffers[key] = self.buffers[name]
        for home, key in self._empty_homes:
            home._buffers[key] = None
        if len(self._silent) < 2 and self._old_versions:
            # A first forward pass may have failed: what it wrote, and whether torch noticed, is not known yet.
            for tensor in self._watched.values():
                _touch(tensor)
        if self._changed_in_forward():
            with torch.no_grad():
                _copy_all([live.detach() for live in self._watched.values()], self._old)
            self._old_versions = [live._version for live in self._watched.values()]

    def own(self, tensor: Tensor) -> Tensor:
        """Detach a tensor that the model or the loss gave; where it is a view of live memory, copy it."""
        found = tensor.detach()
        may_alias = tensor.is_leaf or tensor._base is not None
        if may_alias and tensor.layout == torch.strided and tensor.untyped_storage()._cdata in self._addresses:
            return found.clone()
        return found


def _spec_of(params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], device: torch.device) -> Spec:
    return Spec(
        {name: (tensor.shape, tensor.dtype) for name, tensor in params.items()},
        {name: (tensor.shape, tensor.dtype) for name, tensor in buffers.items()},
        device,
    )


def _copy_all(to: list[Tensor], values: list[Tensor]) -> None:
    """Copy many tensors at once: one kernel launch for all where the device has one."""
    torch._foreach_copy_(to, values)  # pyright: ignore[reportPrivateImportUsage] # torch's only fused copy


def _own_memory(module: nn.Module) -> nn.Module:
    """Give each buffer memory of its own where its elements share some (an expanded tensor cannot be written to)."""
    for home in module.modules():
        for key, tensor in home._buffers.items():
            if tensor is not None and tensor.layout == torch.strided and 0 in tensor.stride():
                home._buffers[key] = tensor.clone(memory_format=torch.contiguous_format)
    return module


def _touch(tensor: Tensor) -> None:
    """Count a write on the tensor's version counter, and change nothing."""
    with torch.no_grad():
        tensor.copy_(tensor)


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


def _group_values(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copied(value) for name, value in group.items() if name not in {"params", "param_names"}}


def _taken_over(mine: Mapping[str, Any], theirs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Bring an optimizer's memory of one parameter in, into the tensors that are there where they fit."""
    brought: dict[str, Any] = {}
    for name, value in theirs.items():
        here = mine.get(name)
        if isinstance(value, Tensor):
            if isinstance(here, Tensor) and here.shape == value.shape and here.dtype == value.dtype:
                here.copy_(value)
                brought[name] = here
            else:
                fresh = copied(value)
                brought[name] = fresh.to(device) if value.device.type != "cpu" or value.ndim else fresh
        else:
            brought[name] = copied(value)
    return brought


class Turn:
    """Who steps a learner: one thread, and not from inside its own step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the turn for a block, or raise `BusyError` at once."""
        if not self._lock.acquire(blocking=False):
            if self._thread == threading.get_ident():
                raise BusyError(
                    "This learner was asked for a step from inside its own step (by a subscriber, sink, model or "
                    "loader). Use another learner there: learner.replace()."
                )
            raise BusyError(
                "Two threads step one learner at once; it has one set of live tensors. "
                "Give each thread a learner of its own: learner.replace()."
            )
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None
            self._lock.release()
