"""An update rule over a workspace's parameters: what the workspace knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError, LossError, add_note
from nntrain.update.accumulating import BoundAccumulate
from nntrain.update.freezing import check_some_trained
from nntrain.update.rule import At, Bound, BoundRule, Gradients, UpdateRule
from nntrain.update.together import live_optimizer
from nntrain.update.torch_optimizer import Compiled, LiveOptimizer
from nntrain.update.torch_rule import OptimizerRule
from nntrain.values.calls import function_name
from nntrain.values.shards import laid_out_as
from nntrain.values.sums import Weight
from nntrain.values.tensors import OptimState
from nntrain.values.trees import clone_tree, described


class LiveUpdate:
    """A chain over live parameters: torch optimizers, with rules before and after them.

    To the workspace it is what a `LiveOptimizer` is. The memory of the rules is `OptimState.rules`.
    """

    def __init__(self, rules: Sequence[UpdateRule], params: Mapping[str, Tensor], compiled: Compiled | None) -> None:
        optimizers = [index for index, rule in enumerate(rules) if isinstance(rule, OptimizerRule)]
        self._optimizer = live_optimizer([rule for rule in rules if isinstance(rule, OptimizerRule)], params, compiled)
        self.trained: Mapping[str, Tensor] = self._optimizer.trained
        at = optimizers[0]
        if self._optimizer.needs_closure and at:
            raise ConfigError(
                f"{self._optimizer.kind} evaluates the model itself, as often as it likes, and takes the gradients as "
                f"they come: {', '.join(map(repr, rules[:at]))} cannot stand before it. Take it out of the chain."
            )
        around = [rule for rule in rules if not isinstance(rule, OptimizerRule)]
        bound = [_bound(rule, self.trained) for rule in around]
        check_some_trained(bound, self.trained)
        self._named = dict(zip(_names_of(around), zip(around, bound, strict=True), strict=True))
        self.rules: tuple[str, ...] = tuple(self._named)
        """The names of the rules around the optimizers."""
        self._remembering = {name for name, (_, one) in self._named.items() if one.memory}
        """The rules whose memory is never empty at first: what is empty of these is kept, too."""
        self.eval_weights: tuple[str, ...] = tuple(
            name for name, (rule, _) in self._named.items() if getattr(rule, "in_eval", False)
        )
        """The rules whose averages eval has in the place of the parameters."""
        self._window = next((one for one in bound if isinstance(one, BoundAccumulate) and one.window > 1), None)
        self.window: int = 1 if self._window is None else self._window.window
        """How many batches make a step."""
        collects = at if self._window is None else bound.index(self._window)
        self._each, self._before, self._after = bound[:collects], bound[collects:at], bound[at:]
        """The rules that see each batch's gradients, those that see a window's mean, and those after the optimizers."""
        if self._window is not None:
            self._before = self._before[1:]
        self.accumulates_alone: bool = self._window is not None and not self._each
        """Whether each rank's gradients are its own until a window is written."""
        self.over_ranks: Callable[[Gradients, float], Gradients] | None = None
        """Returns the mean over the ranks of a window's gradients, given its weight here."""
        self._noting: list[Any] = [one for one in self._after if callable(getattr(one, "before", None))]
        """The rules after the optimizers that look at the parameters before these write."""
        if self._noting and self._optimizer.needs_closure:
            raise ConfigError(
                f"{self._optimizer.kind} evaluates the model itself, and shows no gradients: "
                f"{', '.join(map(repr, around[at:]))} cannot stand after it. Take another optimizer."
            )
        self._bound = bound
        self._others = [one for one in bound if one is not self._window]
        self._live = list(self.trained.values())
        self.scales_loss: bool = any(getattr(type(one), "loss", None) is not Bound.loss for one in bound)
        """Whether `loss` returns another."""
        self.tells: bool = any(hasattr(one, "told") for one in bound)
        """Whether `take_told` returns anything."""
        self._told: dict[str, Tensor | float] = {}
        self.untouched: bool = False
        """Of a step that failed: whether nothing had been written yet."""
        self._evaluates = any(getattr(one, "evaluates", False) for one in bound)
        self.needs_closure: bool = self._optimizer.needs_closure or self._evaluates
        self.evaluates_apart: bool = self._evaluates
        """Whether what a forward pass writes is to be what the first of a batch wrote."""
        self.kind: str = self._optimizer.kind
        self.fresh: OptimState = self._optimizer.fresh
        """The memory before any step; that of the rules begins when it is brought in."""

    @property
    def memory(self) -> dict[str, Any]:
        """What the rules around the optimizer remember, live, by their names."""
        return {name: one.memory for name, (_, one) in self._named.items()}

    # -- memory ---------------------------------------------------------------------------------------------------

    def read(self, change: Callable[[Any], Any]) -> OptimState:
        """Return the memory, each part of it as `change` returns it: a copy, or the live one."""
        kept = {
            name: change(dict(one.memory))
            for name, (_, one) in self._named.items()
            if one.memory or name in self._remembering
        }
        return replace(self._optimizer.read(change), rules=kept)

    def bring_in(self, optim: OptimState, device: torch.device) -> None:
        """Make the memory what `optim` says. A rule that it knows nothing of begins anew, over the live weights."""
        self._optimizer.bring_in(optim, device)
        for name, (rule, one) in self._named.items():
            kept = optim.rules.get(name)
            _put_in(one.memory, _bound(rule, self.trained).memory if kept is None else kept, device, self.trained)

    @property
    def collected(self) -> int:
        """How many batches' gradients wait to be written."""
        return int(self._window.memory.get("batches", 0)) if self._window is not None else 0

    @property
    def generation(self) -> int:
        """Grows whenever the memory may have come to lie elsewhere."""
        return self._optimizer.generation

    # -- stepping -------------------------------------------------------------------------------------------------

    def loss(self, loss: Tensor, /) -> Tensor:
        """Return the loss to go backward from."""
        for one in reversed(self._bound):
            given: object = one.loss(loss)
            if not isinstance(given, Tensor) or given.ndim or not given.requires_grad:
                raise LossError(
                    f"loss(...) of the update rule {type(one).__name__} returned {described(given)}; expected a 0-dim "
                    f"tensor with a gradient, like loss * scale, or the loss itself."
                )
            loss = given
        return loss

    def write(self, gradients: Gradients, at: At, /) -> bool:
        """Step with other gradients than those of the pass. Return False where they wait for more."""
        steps = self.collected + 1 >= self.window
        self._optimizer.give(gradients)
        self.step(at.step, 1.0, None, None, at.weight, bits=at.bits)
        return steps

    def step(
        self,
        number: int,
        scale: float,
        closure: Callable[[], Tensor] | None,
        through: Callable[[Callable[[], None]], None] | None = None,
        weight: Weight | None = 1,
        *,
        bits: int = 0,
    ) -> None:
        """Write what a batch of such a weight came to, as step `number`.

        With a weight of None there is no batch: what waits for more of them is written. After a failure `untouched`
        says whether anything was written.
        """
        window, again = self._window, None
        if closure is not None and self._evaluates:
            again, closure = self._again(closure), None
        collects = window is not None and weight is not None and not window.full
        self.untouched = self._optimizer.untouched = True
        if collects and not self._each and through is None:
            self._collect(self._gradients(), weight)
            return
        written = self._live.copy()
        memories = [(one, _containers(one.memory, written)) for one in self._others if one.memory]
        before = [tensor._version for tensor in written]
        try:
            if through is None:
                self._run(number, scale, closure, weight, again=again, bits=bits, collects=collects)
            else:  # the gradients lie in memory that is used again
                through(lambda: self._run(number, scale, closure, weight, Tensor.clone, bits=bits, collects=collects))
        except BaseException:
            seen = before == [tensor._version for tensor in written]
            self.untouched = self.untouched and self._optimizer.untouched and seen
            if self.untouched:
                for one in self._others:
                    one.memory.clear()
                for one, memory in memories:
                    one.memory.update(memory)
            raise

    def _run(
        self,
        number: int,
        scale: float,
        closure: Callable[[], Tensor] | None,
        weight: Weight | None,
        taken: Callable[[Tensor], Tensor] | None = None,
        *,
        again: Callable[[], Gradients] | None = None,
        bits: int,
        collects: bool,
    ) -> None:
        gradients = {} if closure is not None else self._gradients(taken)
        at = At(number, 1 if weight is None else weight, bits, again)
        if weight is not None and self._each and not self._written(self._each, gradients, at):
            return
        if collects:
            self._collect(gradients, weight)
            return
        if self._window is not None:
            total = self._window.weight(weight) if self.over_ranks else 0.0
            gradients = self._window.mean(gradients, weight)
            if self.over_ranks:
                gradients = self.over_ranks(gradients, total)
        if self._written(self._before, gradients, at):
            if closure is None:
                self._optimizer.give(gradients)
            for one in self._noting:
                one.before(gradients)
            self._optimizer.step(number, scale, closure)
            self._written(self._after, gradients, at)
        if self._window is not None:
            self._window.empty()

    def _gradients(self, taken: Callable[[Tensor], Tensor] | None = None) -> Gradients:
        """Return the gradients that there are, each as `taken` returns it."""
        found = {name: grad for name, param in self.trained.items() if (grad := param.grad) is not None}
        return found if taken is None else {name: taken(grad) for name, grad in found.items()}

    def _again(self, closure: Callable[[], Tensor]) -> Callable[[], Gradients]:
        """Return what evaluates the batch again; a closure's first call is of the evaluation that was made already."""
        made: list[Tensor] = []

        def again() -> Gradients:
            if not made:
                made.append(closure())
            closure()
            return self._gradients()

        return again

    def _collect(self, gradients: Gradients, weight: Weight | None) -> None:
        """Let a batch wait for more, with the gradients that it has."""
        assert self._window is not None
        weighed = self._window.weighed(gradients, 1 if weight is None else weight)
        self.untouched = False
        self._window.add(weighed)

    def _written(self, rules: Sequence[BoundRule], gradients: Gradients, at: At) -> bool:
        for one in rules:
            try:
                goes_on = one.write(gradients, at)
            except Exception as error:
                add_note(error, f"nntrain: raised by the update rule {type(one).__name__} at step {at.step}")
                raise
            if self.tells and (told := getattr(one, "told", None)):
                self._told.update(told)
            if not goes_on:
                if goes_on is None:  # a missing return, with which nothing is trained
                    raise ConfigError(
                        f"write of the update rule {type(one).__name__} returned None; expected True, or False where "
                        f"the rules after it are to wait."
                    )
                return False
        return True

    def take_told(self) -> dict[str, Tensor | float]:
        """Return what the rules said of the last write, and forget it."""
        told, self._told = self._told, {}
        return told

    # -- recording ------------------------------------------------------------------------------------------------

    @property
    def hooked(self) -> bool:
        """Whether a hook, the profiler or a replaced method is to see each step."""
        return self._optimizer.hooked

    def unrecordable(self, device: torch.device) -> str | None:  # noqa: ARG002 - on any
        """Return why a step cannot be recorded."""
        return f"the rules around it ({', '.join(self._named)}) run in Python"


Live = LiveOptimizer | LiveUpdate
"""What a workspace writes with."""
_PLAIN: Final = (bool, int, float, str, type(None))


def _names_of(rules: Sequence[UpdateRule]) -> list[str]:
    """Return the names of the rules' memories in a state: each rule's `name`, or its class's; the next is "ema.1"."""
    names = [str(getattr(rule, "name", type(rule).__name__)) for rule in rules]
    return [
        f"{name}.{names[:index].count(name)}" if name in names[:index] else name for index, name in enumerate(names)
    ]


def _bound(rule: UpdateRule, params: Mapping[str, Tensor]) -> BoundRule:
    """Bind a rule. Raises `ConfigError` where that gives no bound rule, or one whose memory cannot be kept."""
    one: Any = rule.bind(dict(params))
    lacking = [name for name in ("memory", "loss", "write") if not hasattr(one, name)]
    if lacking:
        raise ConfigError(
            f"The update rule {function_name(rule)} was bound to a {type(one).__name__} without {', '.join(lacking)}; "
            f"expected memory (a dict), loss(loss) and write(gradients, at)."
        )
    live = {id(param) for param in params.values()}
    if not (isinstance(one.memory, dict) and _is_kept(one.memory, live)):
        raise ConfigError(
            f"The memory of the update rule {function_name(rule)} is {one.memory!r:.120}; expected a dict of names to "
            f"tensors of its own (not the parameters), numbers, strings, and dicts, lists and tuples of these."
        )
    bound: BoundRule = one
    return bound


def _is_kept(value: object, live: set[int]) -> bool:
    if isinstance(value, Tensor):
        return id(value) not in live
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_kept(one, live) for name, one in value.items())
    return all(_is_kept(one, live) for one in value) if isinstance(value, (list, tuple)) else isinstance(value, _PLAIN)


def _containers(memory: Any, tensors: list[Tensor]) -> Any:
    """Copy a memory down to its tensors, which stay the same ones and are added to `tensors`."""
    if isinstance(memory, Tensor):
        tensors.append(memory)
    elif isinstance(memory, (list, tuple)):
        return type(memory)(_containers(one, tensors) for one in memory)
    elif isinstance(memory, dict):
        copied = {**memory}
        for name, one in memory.items():
            if type(one) is Tensor:
                tensors.append(one)
            elif type(one) not in _PLAIN:
                copied[name] = _containers(one, tensors)
        return copied
    return memory


def _put_in(
    memory: dict[str, Any], kept: Mapping[str, Any], device: torch.device, params: Mapping[str, Tensor]
) -> None:
    """Make a live memory what was kept, in the tensors that are there where they fit.

    What is kept under a parameter's name, in its shape, is sharded as that is, or whole as that is.
    """
    brought = {name: _brought(memory.get(name), value, device, params, name) for name, value in kept.items()}
    memory.clear()
    memory.update(brought)


def _brought(here: object, value: Any, device: torch.device, params: Mapping[str, Tensor], name: str) -> Any:
    if isinstance(value, Tensor):
        value = laid_out_as(value, here if isinstance(here, Tensor) else params.get(name))
        if isinstance(here, Tensor) and here.shape == value.shape and here.dtype == value.dtype:
            return here.copy_(value)
        return clone_tree(value).to(device) if value.ndim or value.device.type != "cpu" else clone_tree(value)
    if isinstance(value, Mapping):
        mine = here if isinstance(here, Mapping) else {}
        return {key: _brought(mine.get(key), one, device, params, key) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_brought(None, one, device, params, name) for one in value)
    return value
