"""`Curve`, a schedule as a value, and `curve`, which makes one of a formula."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from types import GenericAlias
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar, get_type_hints

from nntrain.errors import ConfigError
from nntrain.values.calls import call_problem, class_of_calls, function_name
from nntrain.values.numbers import is_count, is_number
from nntrain.values.record import FrozenMapping

Arguments = ParamSpec("Arguments")
Value_co = TypeVar("Value_co", covariant=True)


@dataclass(frozen=True, repr=False)
class Curve(Generic[Value_co]):
    """A schedule as a value: a function of the step (0, 1, ...), equal to another where it was made alike.

    It can be hashed and, where its arguments can, pickled. Its `repr` is the call that makes it.
    """

    made_by: Callable[..., Curve[Value_co]]
    args: tuple[object, ...]
    kwargs: FrozenMapping[object]
    value: Callable[[int], Value_co] = field(compare=False)

    def __call__(self, step: int, /) -> Value_co:
        """Return the value at a step."""
        return self.value(step)

    @property
    def __name__(self) -> str:
        """What messages and logs call it: the call that makes it."""
        return repr(self)

    @property
    def also_moves(self) -> Mapping[str, str]:
        """What the torch scheduler that it is read of moves beside the rate, each with the call that reads that."""
        found: dict[str, str] = {}
        for one in self.args:
            for part in one if isinstance(one, tuple) else (one,):
                found |= part.also_moves if isinstance(part, Curve) else {}
        for name in getattr(self.value, "also_moves", ()):
            found[name] = repr(Curve(self.made_by, self.args, FrozenMapping({**self.kwargs, "of": name}), self.value))
        return found

    def __repr__(self) -> str:
        usual = inspect.signature(self.made_by).parameters
        named = [f"{name}={_said(given)}" for name, given in self.kwargs.items() if given != usual[name].default]
        return f"{function_name(self.made_by)}({', '.join([*map(_said, self.args), *named])})"

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.made_by, self.args, dict(self.kwargs))


def _said(argument: object) -> str:
    if isinstance(argument, tuple):
        return f"[{', '.join(map(_said, argument))}]"
    if isinstance(argument, partial):
        named = [f"{name}={_said(value)}" for name, value in argument.keywords.items()]
        return f"partial({', '.join([*map(_said, (argument.func, *argument.args)), *named])})"
    return function_name(argument) if callable(argument) else repr(argument)


def _again(
    made_by: Callable[..., Curve[Value_co]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Curve[Value_co]:
    return made_by(*args, **kwargs)


def curve(
    formula: Callable[Concatenate[int, Arguments], Value_co],
) -> Callable[Arguments, Curve[Value_co]]:
    """Return the function that makes a `Curve` of a formula's arguments, all but the first, which is the step.

    It raises `ConfigError` for an argument that is not what its name stands for, and where the formula does at step 0.
    """
    first, *parameters = inspect.signature(formula).parameters.values()
    hints = get_type_hints(formula)
    del hints[first.name]
    hints["return"] = GenericAlias(Curve, hints["return"])
    own = inspect.Signature(
        [one.replace(annotation=hints[one.name]) for one in parameters], return_annotation=hints["return"]
    )

    @wraps(formula)
    def make(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Curve[Value_co]:
        if "steps" in hints and kwargs.get("steps") is None:
            raise ConfigError(_NO_STEPS.format(formula.__name__))
        given = bound(formula.__name__, own, args, kwargs)
        args_, kwargs_ = given.args, given.kwargs
        made = Curve(make, args_, FrozenMapping(kwargs_), lambda step: formula(step, *args_, **kwargs_))
        made(0)
        return made

    del make.__wrapped__  # it takes a step, which the maker does not
    make.__annotations__ = hints
    make.__signature__ = own  # type: ignore[attr-defined] # `inspect` reads it
    return make


_NO_STEPS: Final = (
    "{} needs steps: over how many optimizer steps it goes. It is a function of the step alone, and cannot ask the "
    "fit, which has epochs times the batches of an epoch: steps=epochs * len(batches). With accumulate(n), an epoch "
    "has a step for every n batches begun."
)


def bound(
    name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Return the arguments of a call, each checked by what its name stands for, with the defaults of the others."""
    try:
        given = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    given.apply_defaults()
    for argument, value in given.arguments.items():
        fits, expected = _MEANT.get(argument, _ANYTHING)
        if not fits(value):
            raise ConfigError(f"{name}: {argument} is {value!r:.80}; expected {expected}.")
        if isinstance(value, list):
            given.arguments[argument] = tuple(value)
    return given


def _is_schedule(value: object) -> bool:
    return callable(value) and class_of_calls(value) is None and call_problem(value, 0) is None and _is_rate(value(0))


def _is_rate(value: object) -> bool:
    return is_number(value) and value >= 0


_RATE: Final = (_is_rate, "a finite number of 0 or more")
_FACTOR: Final = (_is_rate, "a finite number of 0 or more, which lr is multiplied with")
_DIVISOR: Final = (lambda value: is_number(value) and value > 0, "a finite number above 0")
_STEPS: Final = (lambda value: is_count(value, 1), "a whole number of steps, 1 or more")
_STEPS_OR_NONE: Final = (lambda value: is_count(value, 0), "a whole number of steps, 0 or more")
_ONE: Final = "a function of the step that returns a finite number of 0 or more"
_ANYTHING: Final = (lambda value: True, "")  # noqa: ARG005 - as the others
_MEANT: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(("lr", "gamma", "power", "base_momentum", "max_momentum"), _RATE),
    **dict.fromkeys(("start", "end"), _FACTOR),
    **dict.fromkeys(("div_factor", "final_div_factor"), _DIVISOR),
    **dict.fromkeys(("steps", "every"), _STEPS),
    **dict.fromkeys(("warmup_steps", "decay_steps"), _STEPS_OR_NONE),
    "times": (lambda value: is_count(value, 1), "a whole number, 1 or more"),
    "pct_start": (lambda value: is_number(value) and 0 <= value <= 1, "a share from 0 to 1"),
    "anneal_strategy": (lambda value: value in {"cos", "linear"}, "'cos' or 'linear'"),
    "decay": (lambda value: value in {"linear", "cosine"}, "'linear' or 'cosine'"),
    "three_phase": (lambda value: isinstance(value, bool), "True or False"),
    "schedule": (_is_schedule, _ONE),
    "schedules": (
        lambda value: isinstance(value, (list, tuple)) and len(value) > 1 and all(map(_is_schedule, value)),
        f"a list of two or more schedules, each {_ONE}",
    ),
    "at": (
        lambda value: isinstance(value, (list, tuple)) and all(is_count(one, 1) for one in value),
        "a list of steps, each a whole number of 1 or more",
    ),
    "parts": (
        lambda value: bool(value) and all(_is_schedule(one) or is_number(one) for one in value),
        f"numbers and schedules, each {_ONE}",
    ),
    "of": (lambda value: isinstance(value, str), "the name of a hyperparameter, like 'momentum'"),
}
"""What an argument may be, by its name, and how it is said."""
