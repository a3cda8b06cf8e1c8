"""The optimizer of a workspace: made once, its memory read out and brought in, its step told apart from its failure."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Collection, Mapping
from types import CodeType
from typing import Any, Final, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
    _use_grad_for_differentiable,
)

from nntrain.errors import ConfigError, add_note
from nntrain.update.rule import At, Gradients
from nntrain.update.schedules import Hyper, Schedule, check_scheduled, first_of, is_schedule
from nntrain.values.bits import same_bits
from nntrain.values.calls import call_problem, function_name, meant
from nntrain.values.reach import things_within
from nntrain.values.shards import is_sharded, laid_out_as, own_part, part_like
from nntrain.values.sums import Weight
from nntrain.values.tensors import OptimState
from nntrain.values.trees import clone_tree

Compiled = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Compiles a function, in whatever way the learner's engine does."""


class OptimizerFactory(Protocol):
    """Anything that makes an optimizer from parameters and `lr`: a class of torch.optim, a partial, a function."""

    def __call__(self, params: Any, /, *, lr: float) -> torch.optim.Optimizer:
        """Make the optimizer."""
        ...


def check_optim_class(optim_class: object, given: Collection[str] | None = None) -> None:
    """Raise `ConfigError` for what cannot make an optimizer from parameters and the hyperparameters `given`, or lr."""
    if isinstance(optim_class, torch.optim.Optimizer):
        made = type(optim_class).__name__
        raise ConfigError(
            f"optim_class is an optimizer made already, over other parameters. Pass what makes one: {made}, or "
            f"functools.partial({made}, ...)."
        )
    expected = "expected a class like torch.optim.SGD, or a function of (params, lr) that returns an optimizer"
    if not callable(optim_class):
        raise ConfigError(f"optim_class is {optim_class!r:.80}; {expected}.")
    name = function_name(optim_class)
    takes = names_taken(optim_class)
    for one in given or () if takes else ():
        if one not in takes:
            raise ConfigError(f"optim_class {name} takes no {one}.{meant(one, takes)}")
    given = ("lr",) if given is None else given
    problem = call_problem(optim_class, "params", **dict.fromkeys(given, 0.1))
    if problem is not None:
        called = ", ".join(["params", *(f"{one}=..." for one in given)])
        raise ConfigError(f"optim_class {name} cannot be called with ({called}): {problem}; {expected}.")


def names_taken(optim_class: Callable[..., Any]) -> list[str]:
    """Return the names of the hyperparameters that a class takes; none where that cannot be told."""
    try:
        _, *takes = inspect.signature(optim_class).parameters.values()
    except (TypeError, ValueError):
        return []
    return [] if any(one.kind is one.VAR_KEYWORD for one in takes) else [one.name for one in takes]


class Group(NamedTuple):
    """Parameters, by name, with hyperparameters of their own."""

    params: Mapping[str, Tensor]
    hyperparameters: Mapping[str, Hyper]


class _Moving(NamedTuple):
    """A hyperparameter that follows a schedule, in which groups, and how many times its value is there."""

    name: str
    schedule: Schedule
    ratios: dict[int, float]


def _made(
    optim_class: Callable[..., torch.optim.Optimizer],
    params: Mapping[str, Tensor],
    made_with: Mapping[str, Any],
    groups: tuple[Group, ...],
) -> torch.optim.Optimizer:
    given: Any = [
        {"params": list(group.params.values())}
        | {name: first_of(name, value) for name, value in group.hyperparameters.items()}
        for group in groups
    ]
    made = optim_class(given or list(params.values()), **made_with)
    if not hasattr(made, "param_groups") or not hasattr(made, "step"):
        raise ConfigError(
            f"optim_class made {type(made).__name__}, expected a torch.optim.Optimizer. Pass a class "
            f"like torch.optim.SGD, or a function of (params, lr) that returns an optimizer."
        )
    if all(callable(getattr(made, name, None)) for name in ("train", "eval")):
        raise ConfigError(
            f"{type(made).__name__} exchanges the weights in a train() and eval() of its own, which no state would "
            f"know of. Schedule-free training is a rule: schedule_free(optimizer(torch.optim.AdamW, lr=..., "
            f"betas=(0.0, 0.999))), or of torch.optim.SGD."
        )
    made.add_param_group = _refuse_group  # type: ignore[method-assign] # told when it is called
    return made


class LiveOptimizer:
    """A torch optimizer over a workspace's parameters, with the schedules of its hyperparameters.

    Its memory is the part of a state that `OptimState` holds. Only the workspace calls it.
    """

    window: Final = 1
    """How many batches make a step."""
    collected: Final = 0
    """How many batches' gradients wait to be written."""
    rules: tuple[str, ...] = ()
    """The names of the rules around it."""
    eval_weights: tuple[str, ...] = ()
    """The rules whose averages eval has in the place of the parameters."""
    tells: Final = False
    """Whether `take_told` returns anything."""
    scales_loss: Final = False
    """Whether `loss` returns another."""
    evaluates_apart: Final = False
    """Whether what a forward pass writes is to be what the first of a batch wrote."""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        optim_class: Callable[..., torch.optim.Optimizer],
        hyperparameters: Mapping[str, Hyper],
        groups: tuple[Group, ...],
        compiled: Compiled | None,
    ) -> None:
        self._params = params
        made_with = {name: first_of(name, value) for name, value in hyperparameters.items()}
        self._optimizer = _made(optim_class, params, made_with, groups)
        self._parts = _over_parts(self._optimizer, params)
        """Of sharded parameters, by name: this rank's parts, where the optimizer is over these."""
        self._own: dict[str, Tensor] = {**params, **self._parts}
        """What the optimizer is over."""
        self._moving: list[_Moving] = self._schedules(hyperparameters, made_with, groups)
        self._moves: list[set[str]] = [
            {one.name for one in self._moving if index in one.ratios}
            for index in range(len(self._optimizer.param_groups))
        ]
        """Of each group, which hyperparameters follow a schedule: they are no memory."""
        self._constant_lr = not all("lr" in moves for moves in self._moves)
        if compiled is not None:
            # A number would be compiled in, and each new one compiled anew.
            for group, moves in zip(self._optimizer.param_groups, self._moves, strict=True):
                if "lr" in moves and not isinstance(group["lr"], Tensor):
                    group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float64)
            if any(one.name != "lr" for one in self._moving):
                compiled = None  # torch's steps take no other in a tensor
        # The steps of torch's own optimizers write under torch's version counters.
        self._counts = type(self._optimizer).step.__module__.startswith("torch.optim.")
        self._other_options = False
        self._compiles = compiled is not None
        self._scale = 1.0
        """What the constant rates of the last step were multiplied with."""
        self._scaled: dict[int, _Scaled] = {}
        """By group, while a step that takes another rate is under way."""
        self._rates: dict[int, Tensor] = {}
        """The tensors that stand in place of the groups' own rates, by group."""
        self.generation: int = 0
        """Grows whenever the memory may have come to lie elsewhere."""
        self.untouched: bool = False
        """Of a step that failed: whether nothing had been written yet."""
        self.kind: str = f"{type(self._optimizer).__module__}.{type(self._optimizer).__qualname__}"
        self._fresh_groups = tuple(_group_values(group) for group in self._optimizer.param_groups)
        self._param_names = {id(one): name for name, one in (*params.items(), *self._parts.items())}
        closure = inspect.signature(self._optimizer.step).parameters.get("closure")
        self.needs_closure: bool = closure is not None and closure.default is inspect.Parameter.empty
        self._no_grad = torch.no_grad()  # made once: that takes longer than to enter it
        self._class_step = type(self._optimizer).step
        self._unwrapped = _without(_HOOKS, self._class_step)
        if self._unwrapped is not None:
            # In its second wrapping torch sets the grad mode, which `_step` does, and asks for graph breaks.
            inner = None if self._optimizer.defaults.get("differentiable") else _without(_GRAD, self._unwrapped)
            self._unwrapped = inner or self._unwrapped
            if compiled is not None:
                self._unwrapped = compiled(self._unwrapped)
        self._attributed = not self._counts or _hooked(self._optimizer)
        """Whether it may count in attributes of its own: torch's keep there what they could compute anew."""
        self._fresh_attributes: dict[str, Any] = {}
        self._fresh_attributes = clone_tree(self._attributes())
        self._check_alone()
        self.fresh: OptimState = self.read(clone_tree)
        """The memory before any step."""

    def read(self, change: Callable[[Any], Any]) -> OptimState:
        """Return the memory, each part of it as `change` returns it: a copy, or the live one."""
        state = {
            self._param_names[id(param)]: change(dict(kept)) for param, kept in self._optimizer.state.items() if kept
        }
        if self._parts:
            state = {name: self._of_whole(name, kept) for name, kept in state.items()}
        groups = tuple(
            {
                name: change(value)
                for name, value in _group_values(group).items()
                if not (name in fresh and same_bits(value, fresh[name])) and name not in moves
            }
            for group, fresh, moves in zip(self._optimizer.param_groups, self._fresh_groups, self._moves, strict=True)
        )
        return OptimState(self.kind, state, groups, self._fresh_groups, change(self._attributes()))

    def _of_whole(self, name: str, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is kept of a parameter's part as what is kept of the parameter."""
        param: Any = self._params[name]
        shape = self._own[name].shape
        return {
            key: part_like(value, param) if isinstance(value, Tensor) and value.shape == shape else value
            for key, value in kept.items()
        }

    def _schedules(
        self, hyperparameters: Mapping[str, Hyper], made_with: Mapping[str, Any], groups: tuple[Group, ...]
    ) -> list[_Moving]:
        """Return what follows a schedule. Raises `ConfigError` where the optimizer does not keep it in its groups."""
        mine = self._optimizer.param_groups
        own: list[Mapping[str, Hyper]] = [group.hyperparameters for group in groups] or [{}] * len(mine)
        if len(own) != len(mine):
            raise ConfigError(
                f"optim_class made {len(mine)} parameter groups of the {len(own)} that groups={{...}} asks for. Name "
                f"the groups in one place: there, or in optim_class."
            )
        for name in sorted({name for given in own for name in given}):
            if name not in self._optimizer.defaults:
                raise ConfigError(
                    f"groups={{...}} sets {name}, which {type(self._optimizer).__name__} does not take."
                    f"{meant(name, self._optimizer.defaults)}"
                )
        found: list[_Moving] = []
        for name, value in hyperparameters.items():
            if not is_schedule(value):
                continue
            if not any(name in group for group in mine):
                raise ConfigError(f"{name} is a schedule, but the optimizer has no {name} in its parameter groups.")
            # A factory may make groups of its own: their rates are as many times the rate as they are at first, and any
            # other value that it sets there is left as it is.
            ratios = {
                index: float(group[name]) / made_with[name] if name == "lr" else 1.0
                for index, group in enumerate(mine)
                if name not in own[index] and name in group and (name == "lr" or group[name] == made_with[name])
            }
            found.append(_Moving(name, value, ratios))
        for index, given in enumerate(own):
            found += [_Moving(name, value, {index: 1.0}) for name, value in given.items() if is_schedule(value)]
        return found

    def _attributes(self) -> dict[str, Any]:
        """Return the optimizer's own attributes that are plain values, and not as when it was made."""
        fresh = self._fresh_attributes
        return {
            name: value
            for name, value in (vars(self._optimizer).items() if self._attributed else ())
            if name not in _KNOWN and self._is_memory(value) and not (name in fresh and same_bits(value, fresh[name]))
        }

    def _is_memory(self, value: object) -> bool:
        """Return whether a value is a tree of plain values and of tensors that are not the parameters themselves."""
        if isinstance(value, Tensor):
            return id(value) not in self._param_names
        if isinstance(value, Mapping):
            return all(map(self._is_memory, value.values()))
        if isinstance(value, (list, tuple, deque, set, frozenset)):
            return all(map(self._is_memory, value))
        return value is None or isinstance(value, (bool, int, float, str))

    def _check_alone(self) -> None:
        """Raise `ConfigError` for other parameters, an optimizer around another, and a scheduler that a hook steps."""
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                if id(param) not in self._param_names:
                    raise ConfigError(
                        f"The optimizer holds a tensor {list(param.shape)} that is no parameter of the model. "
                        f"Give it only parameters out of those it is passed."
                    )
        mine = self._optimizer
        for where, one in things_within(mine):
            if isinstance(one, LRScheduler):
                raise ConfigError(
                    f"The optimizer {self.kind} has a scheduler, {type(one).__name__} ({where}), whose count is no "
                    f"part of a state. Pass the rate as a function of the step: Learner(..., lr=lambda step: ...)."
                )
            if one is mine or not isinstance(one, torch.optim.Optimizer):
                continue
            theirs = {id(param) for group in one.param_groups for param in group["params"]}
            shares = one.state is mine.state and one.param_groups is mine.param_groups
            if not shares and theirs & self._param_names.keys():
                raise ConfigError(
                    f"The optimizer {self.kind} holds another, {type(one).__name__} ({where}), with a memory of its "
                    f"own, which is no part of a state. Use one class that keeps all under its own state and "
                    f"param_groups, or let both share them (self.state = inner.state, and param_groups likewise)."
                )

    def bring_in(self, optim: OptimState, device: torch.device) -> None:
        """Make the memory what `optim` says; that of another class is begun anew."""
        if optim.kind != self.kind:
            optim = self.fresh
        self._other_options = bool(optim.state) and not same_bits(optim.options, self._fresh_groups)
        self.generation += 1
        state = self._optimizer.state
        for name, param in self._own.items():
            kept = optim.state.get(name)
            if kept is None:
                state.pop(param, None)
            else:
                mine = {key: self._laid_out(name, value) for key, value in kept.items()}
                state[param] = _taken_over(state.get(param, {}), mine, device, self._on_device)
        for index, (group, fresh) in enumerate(zip(self._optimizer.param_groups, self._fresh_groups, strict=True)):
            changed = optim.groups[index] if index < len(optim.groups) else {}
            values = clone_tree({**fresh, **changed})
            for added in [name for name in group if name not in values and name not in _NO_VALUES]:
                del group[added]  # by the steps after another state
            group.update(values)
        attributes = vars(self._optimizer)
        for name in self._attributes():
            del attributes[name]
        attributes.update(clone_tree({**self._fresh_attributes, **optim.attributes}))

    def _laid_out(self, name: str, value: object) -> object:
        """Return what is kept of a parameter as the optimizer has it: whole, sharded as that is, or its part."""
        if not isinstance(value, Tensor):
            return value
        laid_out = laid_out_as(value, self._params[name])
        return own_part(laid_out) if name in self._parts else laid_out

    def step(
        self,
        number: int,
        scale: float,
        closure: Callable[[], Tensor] | None,
        through: Callable[[Callable[[], None]], None] | None = None,
        weight: Weight | None = 1,  # noqa: ARG002 - of the batch, which the rules of a chain ask for
        *,
        bits: int = 0,  # noqa: ARG002 - as the weight
    ) -> None:
        """Write the parameters, as step `number`, `through` what may do it faster.

        `scale` is what the learning rate is multiplied with. After a failure `untouched` says whether anything was
        written.
        """
        self.untouched = True
        known = len(self._optimizer.state)
        before = self._written() if self._counts else None
        try:
            if self._moving:
                self._set_scheduled(number, scale)
            if self._constant_lr and (scale != 1.0 or scale != self._scale):
                self._scale_lr(scale)
            self.untouched = False
            try:
                if through is not None:
                    through(self._step_alone)
                else:
                    self._step(closure)
            except KeyError:
                # A memory made by the same class with other options (Adam's amsgrad) lacks what these options need.
                if not self._other_options or before != self._written():
                    raise
                self.generation += 1
                self._optimizer.state.clear()
                self._step(closure)
            if not known and self._optimizer.state:
                self._check_memory()
        except BaseException:
            self.generation += 1
            for param in list(self._optimizer.state)[known:]:
                del self._optimizer.state[param]
            # Optimizers of other packages may write past the version counters.
            self.untouched = self.untouched or (before is not None and before == self._written())
            raise
        finally:
            if self._scaled:
                self._take_scale_back(scale)
        self._other_options = False

    @property
    def trained(self) -> dict[str, Tensor]:
        """The parameters that it writes, by name."""
        return dict(self._params)

    @property
    def memory(self) -> dict[str, Any]:
        """What is kept of each parameter, live."""
        return dict(self.read(lambda tree: tree).state)

    def loss(self, loss: Tensor, /) -> Tensor:
        """Return the loss as it is."""
        return loss

    def write(self, gradients: Gradients, at: At, /) -> bool:
        """Step with other gradients than those of the pass."""
        self.give(gradients)
        self.step(at.step, 1.0, None)
        return True

    def take_told(self) -> dict[str, Tensor | float]:
        """Return what the rules say of a write: none."""
        return {}

    def give(self, gradients: Gradients) -> None:
        """Set the gradients of the parameters."""
        for name, param in self._params.items():
            param.grad = gradients.get(name)

    @property
    def hooked(self) -> bool:
        """Whether a hook, the profiler or a replaced method is to see each step."""
        replaced = type(self._optimizer).step is not self._class_step or "step" in vars(self._optimizer)
        return replaced or self._unwrapped is None or _hooked(self._optimizer)

    def unrecordable(self, device: torch.device) -> str | None:
        """Return why a step cannot be recorded, None if it can. To be asked after a step."""
        if not self._counts:
            return f"{self.kind} is no class of torch.optim, and may do in Python what a recording would leave out"
        for index, (group, fresh) in enumerate(zip(self._optimizer.param_groups, self._fresh_groups, strict=True)):
            lr, moves = group["lr"], self._moves[index]
            others = sorted(moves - {"lr"})
            if others:
                return f"{', '.join(others)} are numbers, and change"
            if moves and not (isinstance(lr, Tensor) and lr.device == device):
                return (
                    "the learning rate is a number, and changes. Make the optimizer with a tensor: "
                    f"lambda params, lr: torch.optim.Adam(params, torch.tensor(lr, device='{device.type}'), "
                    "capturable=True)"
                )
            own = {**group, "lr": self._scaled[index].own} if index in self._scaled else group
            changed = [
                name
                for name, value in _group_values(own).items()
                if name not in fresh or not same_bits(value, fresh[name])
            ]
            if not moves.issuperset(changed):
                return f"it changes {', '.join(changed)} of its parameter groups in Python"
        for kept in self._optimizer.state.values():
            for name, value in kept.items():
                if value is not None and not (isinstance(value, Tensor) and value.device == device):
                    return (
                        f"it keeps {name} on the CPU. Pass functools.partial({type(self._optimizer).__name__}, "
                        "capturable=True), where the optimizer has that"
                    )
        return None

    def _step_alone(self) -> None:
        self._step(None)

    def _step(self, closure: Callable[[], Tensor] | None) -> None:
        for name, part in self._parts.items():
            grad = self._params[name].grad
            part.grad = None if grad is None else own_part(grad)
        try:
            self._step_over_own(closure)
        finally:
            for part in self._parts.values():
                part.grad = None

    def _step_over_own(self, closure: Callable[[], Tensor] | None) -> None:
        if closure is None:
            if self._unwrapped is None or self.hooked:
                self._optimizer.step()
            elif torch.is_grad_enabled():
                with self._no_grad:
                    self._unwrapped(self._optimizer)
            else:  # as in every step of the machine; to enter no_grad takes longer than to ask
                self._unwrapped(self._optimizer)
        else:
            self._optimizer.step(closure)  # type: ignore[arg-type] # torch: float, and gives it tensors

    def _check_memory(self) -> None:
        strangers = [key for key in self._optimizer.state if id(key) not in self._param_names]
        if strangers:
            raise ConfigError(
                f"The optimizer {self.kind} keeps state under {strangers[0]!r:.40}, which is no parameter. A state "
                f"holds what is kept for each parameter, and what a parameter group holds: keep it there."
            )

    @property
    def _on_device(self) -> bool:
        """Whether it counts its steps where the parameters are."""
        return any(group.get("capturable") or group.get("fused") for group in self._optimizer.param_groups)

    def _scale_lr(self, scale: float) -> None:
        """Put another rate in each group for a step. Between steps there is its own, which the optimizer may change."""
        if scale != self._scale:
            self._scale = scale
            self.generation += 1  # a recording holds the number that it was made with
        if scale == 1.0:
            return
        for index, group in enumerate(self._optimizer.param_groups):
            if "lr" in self._moves[index]:
                continue
            own = group["lr"]
            in_tensor = isinstance(own, Tensor) or self._compiles
            taken: Any = self._rate_in_tensor(index, own, scale) if in_tensor else own * scale
            group["lr"] = taken
            self._scaled[index] = _Scaled(own, taken, taken._version if in_tensor else 0)

    def _rate_in_tensor(self, index: int, own: Tensor | float, scale: float) -> Tensor:
        """Return a group's rate in the tensor that all steps with another rate read: it is compiled in or recorded."""
        with torch.inference_mode(False):  # whoever reads the new weights early may be in it
            rate = own * scale if isinstance(own, Tensor) else torch.tensor(own * scale, dtype=torch.float64)
            return self._rates.setdefault(index, rate).copy_(rate)

    def _take_scale_back(self, scale: float) -> None:
        """Put each group's own rate back; where the optimizer has changed the one it took, changed likewise."""
        for index, (own, taken, version) in self._scaled.items():
            group = self._optimizer.param_groups[index]
            now, group["lr"] = group["lr"], own
            changed = now is not taken or (isinstance(now, Tensor) and now._version != version)
            if changed and scale:
                group["lr"] = now / scale if isinstance(own, Tensor) else float(now) / scale
        self._scaled = {}

    def _set_scheduled(self, step: int, scale: float) -> None:
        """Put what the schedules return at a step into the groups; rates are multiplied with `scale`."""
        values: list[Any] = []
        for name, schedule, _ in self._moving:
            try:
                value = schedule(step)
            except Exception as error:
                add_note(error, f"nntrain: raised by {name} at step {step}")
                raise
            check_scheduled(name, value, step)
            values.append(value)
        for (name, _, ratios), value in zip(self._moving, values, strict=True):
            for index, ratio in ratios.items():
                group = self._optimizer.param_groups[index]
                now = value * ratio * scale if name == "lr" else value
                if isinstance(group[name], Tensor):
                    group[name].fill_(now)
                else:
                    group[name] = tuple(now) if isinstance(now, list) else now

    def _written(self) -> list[object]:
        """Return version counters and numbers that change when one of torch's own optimizers writes."""
        seen: list[object] = [param._version for param in self._own.values()]
        for memory in self._optimizer.state.values():
            seen += [value._version if isinstance(value, Tensor) else value for value in memory.values()]
        return seen


def _over_parts(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put this rank's parts of sharded parameters in their place in an optimizer, and return them by name.

    Only in those of torch's that treat each element by itself: the bits are the same, and a step with 4 parameters took
    a quarter of the time. Any other gets the sharded tensors.
    """
    parts = {name: own_part(param) for name, param in params.items() if is_sharded(param)}
    if parts and isinstance(optimizer, _OVER_WHOLE):
        raise ConfigError(
            f"{type(optimizer).__name__} looks at more than one element at a time, in a way that torch has not for "
            f"parameters that are sharded over ranks. Train with parallel='data', or take one that treats each element "
            f"by itself, like torch.optim.AdamW."
        )
    if type(optimizer) not in _ELEMENTWISE:
        return {}
    of = {id(params[name]): part for name, part in parts.items()}
    for group in optimizer.param_groups if parts else ():
        group["params"] = [of.get(id(param), param) for param in group["params"]]
    for param, kept in list(optimizer.state.items()) if parts else ():  # what it keeps from the beginning
        del optimizer.state[param]
        optimizer.state[of.get(id(param), param)] = {
            name: own_part(value) if isinstance(value, Tensor) else value for name, value in kept.items()
        }
    return parts


_ELEMENTWISE: Final = frozenset(
    {
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.ASGD,
    }
)
"""The optimizers of torch's that treat each element of a parameter by itself."""
_OVER_WHOLE: Final = (torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.SparseAdam)
"""Those that torch cannot step over sharded parameters."""


def _refuse_group(param_group: object) -> NoReturn:
    """Raise `ConfigError`: what is called in training in the place of an optimizer's `add_param_group`."""
    raise ConfigError(
        f"add_param_group was called in training ({param_group!s:.80}), but a state has the parameter groups that the "
        f"optimizer was made with. Make it with all groups, those of parameters to be trained later with lr 0: "
        f"optim_class=lambda params, lr: torch.optim.SGD([...], lr=lr). Or go on with a learner of another optim_class."
    )


class _Scaled(NamedTuple):
    """A group's own rate, what stands in its place for a step, and the version of that, where it is a tensor."""

    own: Any
    taken: Any
    version: int


def _code_of(wrap: Callable[[Callable[..., Any]], Any]) -> CodeType:
    """Return the code that a wrapper of torch's runs, whatever it is around."""
    code: CodeType = wrap(abs).__code__
    return code


_HOOKS: Final = _code_of(torch.optim.Optimizer.profile_hook_step)
"""Around each step: hooks and the profiler, 25 µs a batch that nobody uses as a rule."""
_GRAD: Final = _code_of(_use_grad_for_differentiable)
"""Around the steps of torch's own optimizers: the grad mode."""


def _without(code: CodeType, step: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return what torch's wrapper is around. None where it is not that wrapper: another one is not to be left out."""
    wrapped: Callable[..., Any] | None = getattr(step, "__wrapped__", None)
    return wrapped if getattr(step, "__code__", None) is code else None


def _hooked(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a hook or the profiler is to see the step."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()  # pyright: ignore[reportAttributeAccessIssue] # unknown to its stubs
    )


_KNOWN: Final = frozenset({"state", "param_groups", "defaults"})
"""The attributes of every optimizer, each seen to for itself."""
_NO_VALUES: Final = frozenset({"params", "param_names"})
"""What a parameter group holds beside its values."""


def _group_values(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: clone_tree(value) for name, value in group.items() if name not in _NO_VALUES}


def _taken_over(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], device: torch.device, on_device: bool
) -> dict[str, Any]:
    """Bring an optimizer's memory of one parameter in, into the tensors that are there where they fit.

    What is a single number on the CPU stays there, as a count of steps does, unless it is to be `on_device`.
    """
    brought: dict[str, Any] = {}
    for name, value in theirs.items():
        here = mine.get(name)
        if isinstance(value, Tensor):
            if isinstance(here, Tensor) and here.shape == value.shape and here.dtype == value.dtype:
                here.copy_(value)
                brought[name] = here
            else:
                fresh = clone_tree(value)
                moves = on_device or value.device.type != "cpu" or value.ndim
                brought[name] = fresh.to(device) if moves else fresh
        else:
            brought[name] = clone_tree(value)
    return brought
