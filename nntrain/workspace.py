"""The workspace: one set of live tensors, written in place, that looks like values from outside.

It owns a module, an optimizer and their tensors, whose identity stays for its life. States see them through `Tensors`
handles (see `nntrain.tensors`); the workspace knows the one handle whose value the live tensors hold only by a weak
reference. The argument that no kept value ever changes:

1. The live tensors are written in four places only: `_load` (another value is brought in), the forward pass (buffers),
   `_write` (the optimizer), and `_restore_buffers`.
2. Before `_load` and `_write`, `_detach` looks whether anybody still holds the current handle. If so, it first
   receives a copy of its own, with the buffers as they were before the forward pass. If not, nobody can see the write.
3. A forward pass that fails, or is not followed by `_write`, puts the buffers back, or (eval phases whose model wrote
   buffers) becomes a new value by the same look as in 2.
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

from nntrain.bits import same_bits
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
        self.module = module.to(wanted)
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
        self._buffer_homes = _homes(self.module, self.buffers)
        self._schedule = lr if callable(lr) else None
        self._make_optimizer(optim_class, lr)
        self._fresh_optim = self._read_optim(copied)
        self._fresh_bits: int | None = bits
        self._current: weakref.ref[Tensors] | None = None
        self._pending: weakref.ref[Tensors] | None = None
        self._step: int | None = None
        self._untouched = False
        self._closure: Callable[[], Tensor] | None = None
        self._old_buffers: list[Tensor] = []
        self._old_versions: list[int] = []
        self._param_list = list(self.params.values())
        self._lent: list[int] | None = None
        """The versions of the parameters when the current value was lent, if it was."""
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
        elif handle.source is not None and self._changed_in_forward():
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
                if name != "lr" and not (name in fresh and same_bits(value, fresh[name]))
            }
            for group, fresh in zip(self.optimizer.param_groups, self._fresh_groups, strict=True)
        )
        return OptimState(self._kind, state, groups)

    # -- stepping -------------------------------------------------------------------------------------------------

    def ready(self, handle: Tensors) -> None:
        """Make the live tensors hold the handle's value, whoever's it is."""
        with self.lock:
            if self._current is not None and self._current() is handle:
                if handle.source is self and self._lent is not None and self._lent != self._versions():
                    self._lose("somebody wrote to its tensors after state.borrow() had taken them back")
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

        A failure puts the buffers back. Afterwards `commit` or `abandon` is due.
        """
        if self.buffers:
            self._save_buffers()
        self._step = step
        try:
            if step is None:
                forward()
            else:
                loss = self._backward(forward)
                if self.needs_closure:
                    self._closure = self._closure_over(forward, loss.detach())
            if self.buffers:
                self._keep_identity()
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
        self._restore_buffers()

    def _write(self, handle: Tensors) -> None:
        """Write in place, after seeing to whoever still holds the old value."""
        self._pending = None
        self._detach()
        if self._step is not None:
            self._optimize(handle, self._step)
        if self.buffers and self._changed_in_forward():
            self._keep_identity()  # an optimizer that evaluates the model may have put others in their place
            self._old_versions = []
        self._lent = None
        self._current = weakref.ref(handle)
        self._fresh_bits = None

    def _optimize(self, handle: Tensors, step: int) -> None:
        known = len(self.optimizer.state)
        versions = self._versions()
        try:
            if self._schedule is not None:
                self._set_lr(self._schedule(step), step)
            if self._closure is not None:
                with kept(self.generators):
                    self.optimizer.step(self._closure)  # type: ignore[arg-type] # torch: float, and gives it tensors
            else:
                self.optimizer.step()
        except BaseException as error:
            handle.source = None
            handle.lost = f"the optimizer failed while it was writing ({type(error).__name__}: {error})"
            self._untouched = self._versions() == versions
            for param in list(self.optimizer.state)[known:]:
                del self.optimizer.state[param]
            self._restore_buffers()
            raise
        finally:
            self._closure = None
            self._clear_gradients()

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
            old = dict(zip(self.buffers, self._old_buffers, strict=True))
            live = Snapshot(live.params, old, live.optim)
        handle.owned = copied_snapshot(live)
        handle.source = None

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
            for name, param in self.params.items():
                kept = optim.state.get(name)
                if kept is None:
                    self.optimizer.state.pop(param, None)
                else:
                    self.optimizer.state[param] = _brought_in(self.optimizer.state.get(param, {}), kept, self.device)
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
        return [param._version for param in self._param_list]

    def _save_buffers(self) -> None:
        """Keep the buffers as they are; costs nothing where nobody wrote to them since the last time."""
        versions = [live._version for live in self.buffers.values()]
        if versions == self._old_versions:
            return
        live = [buffer.detach() for buffer in self.buffers.values()]
        if self._old_buffers:
            _copy_all(self._old_buffers, live)
        else:
            self._old_buffers = [copied(buffer) for buffer in live]
        self._old_versions = versions

    def _changed_in_forward(self) -> bool:
        return bool(self._old_versions) and self._old_versions != [live._version for live in self.buffers.values()]

    def _keep_identity(self) -> None:
        """Where a forward pass put another tensor in a buffer's place, take its value and put the live one back."""
        for home, key, name in self._buffer_homes:
            found = home._buffers.get(key)
            live = self.buffers[name]
            if found is live:
                continue
            if found is None or found.shape != live.shape or found.dtype != live.dtype:
                home._buffers[key] = live
                given = "None" if found is None else f"{found.dtype} {list(found.shape)}"
                raise StateError(
                    f"The model replaced its buffer {name} ({live.dtype} {list(live.shape)}) by {given}. "
                    f"Buffers keep their shape and dtype in training."
                )
            with torch.no_grad():
                live.copy_(found)
            home._buffers[key] = live

    def _restore_buffers(self) -> None:
        for home, key, name in self._buffer_homes:
            home._buffers[key] = self.buffers[name]
        if self._changed_in_forward():
            with torch.no_grad():
                _copy_all([live.detach() for live in self.buffers.values()], self._old_buffers)
            self._old_versions = [live._version for live in self.buffers.values()]


def _spec_of(params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], device: torch.device) -> Spec:
    return Spec(
        {name: (tensor.shape, tensor.dtype) for name, tensor in params.items()},
        {name: (tensor.shape, tensor.dtype) for name, tensor in buffers.items()},
        device,
    )


def _copy_all(to: list[Tensor], values: list[Tensor]) -> None:
    """Copy many tensors at once: one kernel launch for all where the device has one."""
    torch._foreach_copy_(to, values)  # pyright: ignore[reportPrivateImportUsage] # torch's only fused copy


def _homes(module: nn.Module, buffers: Mapping[str, Tensor]) -> list[tuple[nn.Module, str, str]]:
    names = {id(tensor): name for name, tensor in buffers.items()}
    return [
        (home, key, names[id(tensor)])
        for home in module.modules()
        for key, tensor in home._buffers.items()
        if tensor is not None
    ]


def _group_values(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copied(value) for name, value in group.items() if name not in {"params", "param_names"}}


def _brought_in(mine: Mapping[str, Any], theirs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
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
