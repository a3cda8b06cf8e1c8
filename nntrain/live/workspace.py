"""The workspace: one set of live tensors, written in place, that looks like values from outside.

It owns a module, an optimizer and their tensors, whose identity stays for its life. States see them through `Tensors`
handles (see `nntrain.values.tensors`); the workspace knows the one handle whose value the live tensors hold only by a
weak reference. The argument that no kept value ever changes:

1. The live tensors are written in four places only: `_load` (another value is brought in), the pass (buffers, and the
   parameters that `ForwardWrites` has seen written, such as an embedding's with `max_norm`), `_write` (the optimizer),
   and `ForwardWrites.restore`.
2. Before `_load` and `_write`, `_detach` looks whether anybody still holds the current handle. If so, it first
   receives a copy of its own, with all as it was before the forward pass. If not, nobody can see the write.
3. A forward pass that fails, or is not followed by `_write`, puts back what it wrote, or (eval phases whose model
   writes) becomes a new value by the same look as in 2.
4. Where a pass writes what none before it wrote, the value before is lost, and its handle says so.
5. Everything handed out is a copy, or lent for a block that refuses writes; readers in other threads wait.

So: one copy for each state that somebody kept, none otherwise. Who calls `commit` must have dropped its own reference
to the old handle before, or it is one who kept it.

A batch is a `Flight`, from `begin` to `commit` or `abandon`. An engine makes the workspace `compute` (the forward and
backward pass) or `replay` a recording of that; `pending` gives the handle on the value after it; `commit` lets the
optimizer write. Before that, subscribers to `after_batch` are asked: one that raises costs nothing, since nothing was
written; one that reads the new weights makes the workspace write early, with the old value safe in a copy.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from nntrain.errors import BorrowError, ConfigError, StateError
from nntrain.live.backward import Backward
from nntrain.live.compiled import CompileOptions, compiled
from nntrain.live.flight import Flight, nobody
from nntrain.live.forward_writes import ForwardWrites, copy_all, touch
from nntrain.live.outside import Outside, stepping
from nntrain.live.precision import Precision
from nntrain.ranks.sharding import ShardedModule
from nntrain.update.accumulating import collected_in
from nntrain.update.chaining import live_update
from nntrain.update.live_update import Live
from nntrain.update.rule import UpdateRule
from nntrain.update.several import LiveSeveral
from nntrain.values.bits import same_bits
from nntrain.values.borrowing import borrow, versions_of
from nntrain.values.modules import make_module
from nntrain.values.output import StepOutput
from nntrain.values.randomness import generators, restoring_rng
from nntrain.values.shards import is_sharded, laid_out_as, own_part, sharded_like
from nntrain.values.tensors import ModelSource, Snapshot, Spec, Tensors, copied_snapshot, spec_of

Read = TypeVar("Read")
_NOTHING: Final = nullcontext()


class Workspace:
    """The live tensors of one learner. A resource, no value: equality and `replace` of learners do not see it."""

    def __init__(
        self,
        template: ModelSource,
        update: UpdateRule | Mapping[str, UpdateRule],
        device: torch.device | None,
        *,
        bits: int,
        compile_options: CompileOptions | None,
        precision: Precision = "fp32",
        shard: Callable[[nn.Module, torch.device], ShardedModule] | None = None,
    ) -> None:
        self.template = template
        self.precision: Precision = precision
        """What the model computes in."""
        module = make_module(template, bits)
        first = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
        wanted = device if device is not None else first
        self.module: nn.Module = module.to(wanted)
        self.sharding: ShardedModule | None = None if shard is None else shard(self.module, wanted)
        """What shards the parameters over ranks, each of which then has its own part of them."""
        self.params: dict[str, nn.Parameter] = dict(self.module.named_parameters())
        self.buffers: dict[str, Tensor] = dict(self.module.named_buffers())
        self.device: torch.device = next(
            (tensor.device for tensor in (*self.params.values(), *self.buffers.values())), wanted
        )
        self.spec: Spec = spec_of(self.params, self.buffers, self.device)
        if not self.params:
            self.check_trainable()  # no optimizer is made of none
        self.generators: list[torch.Generator] = generators(self.device)
        """torch's global generators that a step draws from."""
        self._own_switch = any(
            getattr(type(one), name) is not getattr(nn.Module, name) or name in vars(one)
            for one in self.module.modules()
            for name in ("train", "eval")
        )
        """Whether a part of the module has a `train()` or `eval()` of its own."""
        self._writes = ForwardWrites(self.module, self.params, self.buffers)
        self._addresses = {
            tensor.untyped_storage()._cdata
            for tensor in (*self.params.values(), *self.buffers.values())
            if tensor.layout == torch.strided
        }
        compiles = None if compile_options is None else partial(compiled, options=compile_options)
        self.optimizer: Live | LiveSeveral = (
            LiveSeveral(update, self.params, compiles)
            if isinstance(update, Mapping)
            else live_update(update, self.params, compiles)
        )
        self.window: int = self.optimizer.window
        """How many batches make a step of the optimizer."""
        self.needs_closure: bool = self.optimizer.needs_closure
        self.writes_within: bool = self.needs_closure or (isinstance(update, Mapping) and len(update) > 1)
        """Whether the model is evaluated after a write of the same batch, so that the value before has a copy."""
        self.empties_autocast_cache: bool = False
        """Whether the caller is in an autocast context. It keeps what it cast until it ends, but the weights change."""
        self._fresh_bits: int | None = bits
        self._generation = 0
        """Of the live value: grows whenever another one is there."""
        self._current: Callable[[], Tensors | None] = nobody
        """A weak reference to the handle on the live value."""
        self._enable_grad = torch.enable_grad()  # made once: that takes longer than to enter it
        self._flight: Flight | None = None
        """The batch that is on its way."""
        self._param_list = list(self.params.values())
        self._autograd = Backward(self.device)
        self._copies: weakref.WeakValueDictionary[int, Tensors] = weakref.WeakValueDictionary()
        """The handles on states that were kept, and so got copies."""
        self._lent: list[int] | None = None
        """The versions of the live tensors when the current value was lent, if it was."""
        self.shared: Callable[[Sequence[Tensor]], None] | None = None
        """Makes tensors those of rank 0, where several ranks train together: a fresh state is to be the same on all."""
        self.lock: AbstractContextManager[bool] = threading.RLock()
        """Held while live tensors are written or read; not while subscribers and sinks are called."""

    # -- making ---------------------------------------------------------------------------------------------------

    def fresh(self, bits: int) -> Tensors:
        """Bring in the template's own weights and a fresh optimizer; return the handle on them."""
        if self.shared is None:
            return self._fresh(bits)
        with self.lock:
            self._fresh_bits = None
            handle = self._fresh(bits)
            params = self.params.values() if self.sharding is None else ()  # those of rank 0 are spread already
            self.shared([*params, *self.buffers.values()])
            return handle

    def _fresh(self, bits: int) -> Tensors:
        with self.lock:
            self.abandon()
            if self._fresh_bits is not None and (isinstance(self.template, nn.Module) or self._fresh_bits == bits):
                # Just made, never trained: the live tensors hold a fresh copy, if the caller's module is as it was.
                handle = self._fresh_handle()
                if handle is not None:
                    return handle
            source = self.template if isinstance(self.template, nn.Module) else make_module(self.template, bits)
            params, buffers = dict(source.named_parameters()), dict(source.named_buffers())
            if any(params.get(name) is param for name, param in self.params.items()):
                raise ConfigError(
                    "The model factory returned the module that it had returned before, which is being trained. Make a "
                    "new one at each call, or pass the module itself, which is copied: Learner(model, ...)."
                )
            spec = spec_of(params, buffers, self.device)
            handle = Tensors(spec, self.template, None, Snapshot(params, buffers, self.optimizer.fresh))
            self.check_fit(handle)
            if self.sharding is not None:
                live: dict[str, Any] = {**self.params}
                spread = {name: sharded_like(one, live[name], of_first=True) for name, one in params.items()}
                handle.owned = Snapshot(spread, buffers, self.optimizer.fresh)
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
        self._hold(handle)
        return handle

    def _hold(self, handle: Tensors) -> None:
        """Take a handle for the one on the live value."""
        self._current = weakref.ref(handle)
        if handle.source is self:  # another's keeps its own
            handle.generation = self._generation

    # -- reading --------------------------------------------------------------------------------------------------

    def held(self, handle: Tensors) -> AbstractContextManager[object]:
        """Return the lock to hold while stepping from `handle`: this workspace's, with its source's if that is another.

        Two threads that hand each other's states around take the same two locks in the same order.
        """
        source = handle.source
        if source is self or not isinstance(source, Workspace):
            return self.lock
        first, second = sorted((self, source), key=id)
        return _both(first.lock, second.lock)

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
            with borrow({**snapshot.params, **snapshot.buffers}) as views:
                yield views

    def _settle(self, handle: Tensors) -> None:
        """Make the live tensors hold the value of a handle that is pending or live."""
        flight = self._flight
        if flight is not None and flight.writing and self.is_pending(handle):
            raise StateError("This state cannot be read yet: its optimizer is amid writing it; read it after the step.")
        if flight is not None and flight.due and self.is_pending(handle):
            # The reader may be in another mode, in which the optimizer would make tensors that cannot be trained with.
            with torch.inference_mode(False), torch.no_grad():
                self._write(flight, handle)
        elif handle.source is self:
            if handle.generation != self._generation:
                # Python clears weak references before it calls `__del__`, which may keep the handle after all.
                handle.lose("it was let go, and kept again by a __del__ after that")
            self._check_lent(handle)
        if handle.source is not None and self._writes.changed():
            # The old value is read while a batch is being worked on: its buffers are those from before.
            self._give_copy(handle)

    def _live_snapshot(self) -> Snapshot:
        return Snapshot(self.params, self.buffers, self.optimizer.read(lambda tree: tree))

    def check_trainable(self) -> None:
        """Raise `ConfigError` where a model, or a rule, has nothing to train; one that is frozen can be evaluated."""
        if not any(param.requires_grad for param in self.params.values()):
            raise ConfigError(
                "The model has no parameter that requires a gradient, so there is nothing to train. "
                "Unfreeze one (param.requires_grad_(True)), or pass a model with parameters."
            )
        parts = self.optimizer.parts if isinstance(self.optimizer, LiveSeveral) else {"": self.optimizer}
        for name, part in parts.items():
            if not any(param.requires_grad for param in part.trained.values()):
                raise ConfigError(
                    f"The update{f' of objective {name!r}' if name else ''} trains {', '.join(part.trained):.200} "
                    f"alone, of which none requires a gradient: nothing would be written. Unfreeze one "
                    f"(param.requires_grad_(True)), or let params=... match others."
                )

    def rule_of(self, name: str) -> Live:
        """Return the rule of an objective; "" stands for that of a learner without any."""
        return self.optimizer.parts[name] if isinstance(self.optimizer, LiveSeveral) else self.optimizer

    # -- stepping -------------------------------------------------------------------------------------------------

    def check_fit(self, handle: Tensors) -> None:
        """Raise `StateError` with what is missing, unexpected or differently shaped."""
        misfits = self.spec.misfits(handle.spec)
        if misfits:
            raise StateError(
                "The state's tensors do not fit the learner's model:\n  "
                + "\n  ".join(misfits)
                + "\nStep it with a learner of the same model, or begin with learner.init()."
            )

    def begin(self, handle: Tensors, *, step: int | None, lr_scale: float = 1.0) -> Flight:
        """Begin a batch from a handle's value, whoever's it is, which is to be `held`.

        It is the optimizer's step of number `step`, or a batch of eval (None).
        """
        if self._flight is not None:
            self.abandon()
        if handle.source is self and handle.generation == self._generation:
            self._current = weakref.ref(handle)
        if self._current() is not handle:
            if handle.spec is not self.spec:
                self.check_fit(handle)
            self._load(handle)
            self._hold(handle)
        elif self._lent is not None:
            self._check_lent(handle)
            self._lent = None
        steps = step is not None and (self.window == 1 or self.optimizer.collected + 1 >= self.window)
        flight = self._flight = Flight(step, lr_scale, steps=steps)
        return flight

    def begin_rest(self, handle: Tensors, *, step: int, lr_scale: float, bits: int) -> None:
        """Begin the step that writes what waits for more batches, as `begin` does that of a batch."""
        flight = self.begin(handle, step=step, lr_scale=lr_scale)
        flight.weight, flight.steps, flight.bits = None, True, bits
        self._writes.save()

    def collected(self, handle: Tensors) -> int:
        """Return how many batches' gradients wait, in a handle's value, to be written with those of the next."""
        if handle.source is self and handle.generation == self._generation:
            return self.optimizer.collected
        return handle.read(lambda snapshot: collected_in(snapshot.optim))

    def has_backward_hooks(self) -> bool:
        """Return whether a hook of the model's or of a parameter's waits for the backward pass."""
        return self._writes.has_backward_hooks()

    def outside(self, loss_fn: object, called: str) -> Outside:
        """Return the watch over weights that are no part of a state, as those of what gives the loss."""
        live: dict[str, Tensor] = {**self.params, **self.buffers}
        if self.sharding is not None:
            live |= {f"gathered {name}": one for name, one in self.sharding.gathered.items()}
        return Outside(self.template, live, loss_fn, called, partial(stepping, weakref.ref(self)))

    @property
    def stepping(self) -> bool:
        """Whether a batch of training is in flight."""
        return self._flight is not None and self._flight.step is not None

    def compute(
        self,
        forward: Callable[[], StepOutput[Any]],
        scaled: Callable[[Tensor], Tensor] | None = None,
        finish: Callable[[], None] | None = None,
    ) -> StepOutput[Any]:
        """Run `forward` and, in training, the backward pass from its loss, `scaled` or not; return what it made.

        `finish` is called after the backward pass, and may write to gradients and buffers.
        """
        flight, writes = self._flight, self._writes
        if flight is None:
            raise RuntimeError("no batch was begun")
        train = flight.step is not None
        writes.save(training=train)
        if self.empties_autocast_cache:
            torch.clear_autocast_cache()
        if train:
            output = self._backward(forward, scaled)
            if finish is not None:
                finish()
            if self.needs_closure:
                flight.closure = self._closure_over(forward, output, scaled)
        else:
            with self._whole_pass():
                output = forward()
                writes.forwarded(training=False)
        writes.ran(training=train)
        return output

    def _whole_pass(self) -> AbstractContextManager[object]:
        """Return what surrounds a pass: over sharded parameters, let go what it gathered."""
        return _NOTHING if self.sharding is None else self.sharding.whole_pass()

    def write_part(self, name: str) -> None:
        """Let one of several rules write amid the pass, after the value before has got its copy."""
        flight, several = self._flight, self.optimizer
        if flight is None or flight.step is None or not isinstance(several, LiveSeveral):
            raise RuntimeError("no batch of several objectives was begun")
        self._detach()
        try:
            several.write(name, flight.step, flight.lr_scale, flight.weight, flight.bits)
        finally:
            self._clear_gradients()
        self._writes.stepped()
        self._written()

    def replay(self, recording: Callable[[], None], written: list[Tensor]) -> None:
        """Run a recording of what `compute` does. `written` are the tensors that it writes, past torch's counting."""
        self._writes.save()
        try:
            recording()
        finally:
            touch(written)

    def rehearse(self, run: Callable[[], None], *, train: bool) -> list[Tensor]:
        """Run what `compute` would, put back what it writes, and return the tensors that were written."""
        self._writes.save(looking=True)
        try:
            run()
            self._writes.ran(training=train)
            return self._writes.written()
        finally:
            self._clear_gradients()
            self._writes.restore()

    def switch(self, *, train: bool) -> None:
        """Put the module into train or eval mode. Raises `StateError` where its own code for that writes to tensors."""
        before = self.module.training
        if not self._own_switch:
            self.module.train(train)
            return
        self._writes.save(looking=True)
        self.module.train(train)
        names = self._writes.differing()
        if names:
            self.module.train(before)
        self._writes.restore()
        if names:
            raise StateError(
                f"The model wrote to {', '.join(names)} in {'train' if train else 'eval'}(). What a state holds must "
                f"not depend on the mode that the model is in. Let it not merge weights while it is trained (layers of "
                f"low rank have a switch for that, such as merge_weights=False), and merge them in what you take from "
                f"state.to_module()."
            )

    def keep_identity(self) -> None:
        """Where the model put another tensor in a buffer's place, take its value and put the live one back."""
        self._writes.keep_identity()

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients that the parameters have now."""
        return [param.grad for param in self._param_list]

    def give_gradients(self, grads: list[Tensor | None]) -> None:
        """Set the parameters' gradients."""
        for param, grad in zip(self._param_list, grads, strict=True):
            param.grad = grad

    def _backward(
        self, forward: Callable[[], StepOutput[Any]], scaled: Callable[[Tensor], Tensor] | None
    ) -> StepOutput[Any]:
        with self._enable_grad, self._whole_pass():
            output = forward()
            self._writes.forwarded(training=True)
            loss: Any = output.loss  # in training there is one
            if not loss.requires_grad:  # the gradients were made with it
                return output
            if scaled is not None:
                loss = scaled(loss)
            self._autograd.backward(loss)
        return output

    def _closure_over(
        self,
        forward: Callable[[], StepOutput[Any]],
        made: StepOutput[Any],
        scaled: Callable[[Tensor], Tensor] | None,
    ) -> Callable[[], Tensor]:
        """Return the closure for optimizers that evaluate several times; the first evaluation is made already."""
        loss: Any = made.loss
        first: list[Tensor] = [loss.detach()]
        noise = [source.get_state() for source in self.generators]

        def closure() -> Tensor:
            if first:
                # Whoever drew numbers since the first evaluation must not change the ones that follow.
                for source, state in zip(self.generators, noise, strict=True):
                    source.set_state(state)
                return first.pop()
            self._clear_gradients()
            buffers = [one.clone() for one in self.buffers.values()] if self.optimizer.evaluates_apart else []
            again: Any = self._backward(forward, scaled)
            again_loss: Tensor = again.loss
            if buffers:
                self._writes.keep_identity()
                copy_all(list(self.buffers.values()), buffers)
            return again_loss

        return closure

    def pending(self, current: Tensors) -> Tensors:
        """Return the handle on the value after this batch.

        Where nothing is to be written (eval, with a model that wrote no buffer), it is the `current` one.
        """
        flight, handle = self._flight, current
        if flight is None:
            raise RuntimeError("no batch was begun")
        if flight.step is not None or self._writes.changed():
            handle = Tensors(self.spec, self.template, self, None)
            flight.due = True
        flight.handle = weakref.ref(handle)
        return handle

    def is_pending(self, handle: Tensors) -> bool:
        """Return whether `handle` is the one on the value after the batch in flight."""
        flight = self._flight
        return flight is not None and flight.handle() is handle

    def commit(self, handle: Tensors) -> None:
        """Let the optimizer write, unless a reader made it write already."""
        with self.lock:
            flight = self._flight
            if flight is not None and flight.due and flight.handle() is handle:
                self._write(flight, handle)
            self._flight = None

    def land(self, reached: Tensors) -> Tensors:
        """End the batch in flight after a failure, whatever has become of it; return the handle on what is live.

        `reached` is the handle that the training stands at. Before the `commit` of a batch that is the value before it,
        and nothing is written. After it began, `reached` is returned if all was written, and is lost if not: then the
        handle on the value before is returned, or `reached` itself where that is lost too.
        """
        with self.lock:
            flight = self._flight
            if flight is None or not self.is_pending(reached):
                # An error's traceback may hold the pending handle, and nobody ever ask for its value: a write that is
                # not wanted. It waits for the next batch, which is when it can be made for the last time.
                if flight is not None and (not flight.due or flight.handle() is None):
                    self._undo()
                return reached
            self._flight = None
            self._clear_gradients()
            if flight.due:
                self._give_up(flight, "the step to it failed before it was written")
            elif reached.lost is None:
                self._writes.forget()  # as after a step that nothing broke off
                self._written()
                return reached
            elif not self.optimizer.untouched:
                return reached
            current = self._current()
            return current if current is not None and current is not reached else self._now_live()

    def retry(self) -> bool:
        """Put back what a pass that failed wrote, for another pass of the batch in flight; return whether that is all.

        It is not where the pass wrote what none before it wrote: no copy of that was kept.
        """
        flight = self._flight
        if self._writes.unforeseen_now():
            return False
        self._undo()
        self._flight = flight
        return True

    def abandon(self) -> None:
        """End a batch that is not to be committed: nothing is written, unless somebody kept the pending handle."""
        with self.lock:
            flight = self._flight
            if flight is None:
                return
            pending = flight.handle() if flight.due else None
            if pending is not None:
                try:
                    self._write(flight, pending)
                except Exception:  # noqa: BLE001 - the kept handle is lost, and says so when it is asked
                    self._give_up(flight, "the step to it failed")
                del pending
            self._undo()

    def _give_up(self, flight: Flight, reason: str) -> None:
        """Mark the handle of a batch that is not written as lost, if somebody holds it."""
        handle = flight.handle() if flight.due else None
        if handle is not None:
            handle.lose(reason)
        flight.due = False
        self._undo()

    def _undo(self) -> None:
        self._flight = None
        self._clear_gradients()
        self._writes.restore()
        current = self._current()
        if self._writes.unforeseen and current is not None:
            self._lose_unforeseen(current)

    def _write(self, flight: Flight, handle: Tensors) -> None:
        """Write in place, after seeing to whoever still holds the old value."""
        self._detach()
        self._hold(handle)
        if flight.step is None:
            flight.due = False
        else:
            self._optimize(flight, handle, flight.step)
            self._writes.stepped()
        self._written()

    def _written(self) -> None:
        """Forget what was known of the old value: another one is in the live tensors now."""
        if self._writes.changed():
            self._writes.forget()
        self._lent = None
        self._fresh_bits = None

    def _optimize(self, flight: Flight, handle: Tensors, step: int) -> None:
        try:
            flight.due = False
            flight.writing = True
            if flight.closure is None:
                self.optimizer.step(step, flight.lr_scale, None, flight.launch, flight.weight, bits=flight.bits)
            else:  # it evaluates the model again, and draws its noise anew
                with restoring_rng(self.generators):
                    self.optimizer.step(step, flight.lr_scale, flight.closure, None, flight.weight, bits=flight.bits)
                self._writes.keep_identity()  # it may have put others in the buffers' places
        except BaseException as error:
            self._current = nobody
            handle.lose(f"the optimizer failed while it was writing ({type(error).__name__}: {error})")
            self._writes.restore()
            raise
        finally:
            flight.writing = False
            flight.closure = flight.launch = None
            self._clear_gradients()

    # -- whoever kept the old value -------------------------------------------------------------------------------

    def _detach(self) -> None:
        """Copy the old value for the current handle, if anybody holds it."""
        current = self._current()
        if current is not None and current.source is self:
            self._give_copy(current)
        self._current = nobody
        self._generation += 1

    def _lose_unforeseen(self, handle: Tensors) -> None:
        self._current = nobody
        handle.lose(
            f"the pass after it wrote to {self._writes.unforeseen}, for the first time after many, and no copy was "
            f"kept (from now on it is)"
        )

    def _give_copy(self, handle: Tensors) -> None:
        if self._writes.unforeseen:
            self._lose_unforeseen(handle)
            return
        live = self._live_snapshot()
        live = Snapshot(self._writes.before(live.params), self._writes.before(live.buffers), live.optim)
        handle.owned = copied_snapshot(live)
        handle.source = None
        self._copies[id(handle)] = handle

    @property
    def kept_copies(self) -> list[Snapshot]:
        """The copies that states which somebody kept have got, and have still."""
        return [handle.owned for handle in [*self._copies.values()] if handle.owned is not None]

    def _check_lent(self, handle: Tensors) -> None:
        if handle.source is self and self._lent is not None and self._lent != self._versions():
            self._lose("somebody wrote to its tensors after state.borrow() had taken them back")

    def _lose(self, reason: str) -> None:
        current = self._current()
        if current is not None:
            current.lose(reason)
        self._current = nobody
        self._lent = None
        raise BorrowError(f"The state's tensors are lost: {reason}. Go on from a state that was kept before.")

    def _load(self, handle: Tensors) -> None:
        self._detach()
        self._undo()
        handle.read(self._copy_in)
        self._writes.forget()
        self._lent = None
        self._fresh_bits = None

    def _copy_in(self, snapshot: Snapshot) -> None:
        with torch.no_grad():
            pairs: list[tuple[Tensor, Tensor]] = [
                (self.params[name], tensor) for name, tensor in snapshot.params.items()
            ]
            pairs += [(self.buffers[name], tensor) for name, tensor in snapshot.buffers.items()]
            if pairs:
                if self.sharding is not None or any(is_sharded(theirs) for _, theirs in pairs):
                    pairs = [(own_part(live), own_part(laid_out_as(theirs, live))) for live, theirs in pairs]
                copy_all([live for live, _ in pairs], [theirs.detach() for _, theirs in pairs])
            self.optimizer.bring_in(snapshot.optim, self.device)

    # -- small things ---------------------------------------------------------------------------------------------

    def _clear_gradients(self) -> None:
        for param in self._param_list:
            param.grad = None

    def _versions(self) -> list[int]:
        return versions_of((*self.params.values(), *self.buffers.values()))

    def own(self, tensor: Tensor) -> Tensor:
        """Detach a tensor that the model or the loss gave; where it is a view of live memory, copy it."""
        found = tensor.detach()
        may_alias = tensor.is_leaf or tensor._base is not None
        if may_alias and tensor.layout == torch.strided and tensor.untyped_storage()._cdata in self._addresses:
            return found.clone()
        return found


@contextmanager
def _both(first: AbstractContextManager[bool], second: AbstractContextManager[bool]) -> Iterator[None]:
    with first, second:
        yield


def as_device(device: torch.device | str | None) -> torch.device | None:
    """Return the device that is meant; None stays. Raises `ConfigError` for one that there is not."""
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device is {device!r}; expected 'cpu', 'cuda', 'cuda:1' ... ({error})") from error
    if found.type == "meta":
        raise ConfigError("device is 'meta', which has no memory to train in; expected 'cpu', 'cuda', 'cuda:1' ...")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is {device!r}, but torch sees no CUDA device here. Use device='cpu'.")
    return found
