"""What can be told of a function before it is called: its name, whether it is a class, and what it cannot be given."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from functools import partial
from typing import Final

_SHORT: Final = 3


def function_name(function: object) -> str:
    """Return what a function is called in messages and logs: a partial as its function is, an object as its class."""
    inner = getattr(function, "func", function)
    name = getattr(inner, "__name__", None)
    return name if isinstance(name, str) else type(inner).__name__


def class_of_calls(function: object) -> type | None:
    """Return the class that calls make instances of, a partial's too; None for what is no class."""
    while isinstance(function, partial):
        function = function.func
    return function if isinstance(function, type) else None


def remembers_calls(function: object) -> bool:
    """Return whether it collects what it is called with: an object like torchmetrics', its class, or its method."""
    while isinstance(function, partial):
        function = function.func
    owner = getattr(function, "__self__", function)
    kind = owner if isinstance(owner, type) else type(owner)
    return all(callable(getattr(kind, name, None)) for name in ("update", "compute", "reset"))


def call_problem(function: object, *arguments: object, **named: object) -> str | None:
    """Return why a call with such arguments would fail; None where it would not, or where that cannot be told.

    A decorated function is asked for what its decorator takes, and not for what the function within does.
    """
    from torch import nn  # the command line asks here what was meant before it has imported torch

    by_forward = isinstance(function, nn.Module) and type(function).__call__ is nn.Module.__call__
    called = getattr(function, "forward", None) if by_forward else function
    if not callable(called):
        return "it cannot be called"
    try:
        signature = inspect.signature(called, follow_wrapped=False)
    except (TypeError, ValueError):  # builtins without a signature: the call itself will tell
        return None
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        return str(error)
    return None


def meant(given: str, there: Iterable[str]) -> str:
    """Return the sentences that say what was probably meant and what there is."""
    known = sorted(there)
    return f"{probably_meant(given, known)} There are {', '.join(known)}." if known else ""


def probably_meant(given: str, there: Iterable[str]) -> str:
    """Return the sentence that says what was probably meant; nothing where nothing is like it.

    Of what is as short as `foo`, two letters in common are no likeness where the first is another.
    """
    alike = sorted(one for one in there if len(given) > _SHORT or one[:1] == given[:1])
    near = difflib.get_close_matches(given, alike, n=2)
    return f" Probably meant: {' or '.join(near)}." if near else ""
