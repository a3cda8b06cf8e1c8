"""The map of the package, made from the code: `python -m tests.docs.map > docs/reference/map.md` writes it anew."""

from __future__ import annotations

import ast
import gc
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from types import CodeType, FrameType
from typing import Final, Literal

import torch
from torch import Tensor, nn

from nntrain import DataLoaders, Learner, Subscriber, TrainState, fit_step
from nntrain.live.flight import Flight
from nntrain.live.workspace import Workspace
from nntrain.machine.cursor import Cursor, Position
from nntrain.machine.table import Step
from nntrain.sinks.transition import Transition
from nntrain.subscribers.asking import Published
from nntrain.values.output import BatchOutput
from nntrain.values.record import evolved
from nntrain.values.sums import WeightedSums
from nntrain.values.tensors import Tensors
from tests.test_rooms import FRONT, MAY_IMPORT, modules, room_of

MODULES: Final = modules()

# -- the rooms ----------------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """Return a text as one line that a table takes."""
    return " ".join(text.split()).replace("|", "\\|")


def sentence(said: str) -> str:
    """Return the first sentence of a docstring."""
    return one_line(re.split(r"(?<=\.)\s|\n\n", said.strip(), maxsplit=1)[0])


def docstring(module: str) -> str:
    return ast.get_docstring(ast.parse(MODULES[module].read_text())) or ""


def invariant(room: str) -> str:
    """Return what a room promises: the rest of its docstring, where that is an invariant."""
    rest = docstring(f"nntrain.{room}").partition("\n\n")[2]
    promised = one_line(rest.removeprefix("Invariant:")) if rest.startswith("Invariant:") else ""
    return promised[:1].upper() + promised[1:]


def modules_of(room: str) -> list[str]:
    return [name for name in MODULES if room_of(name) == room]


def rooms() -> Iterator[str]:
    yield "| room | what it is | what always holds | files |"
    yield "|---|---|---|---|"
    for room in MAY_IMPORT:
        count = len(modules_of(room))
        yield f"| `{room}` | {sentence(docstring(f'nntrain.{room}'))} | {invariant(room)} | {count} |"


def contents(names: Iterable[str], room: str) -> Iterator[str]:
    """Return modules, each with its first sentence."""
    yield f"### `{room}`\n"
    yield "| module | what it is |"
    yield "|---|---|"
    yield from (f"| `{name}` | {sentence(docstring(name))} |" for name in names)
    yield ""


def all_contents() -> Iterator[str]:
    yield from contents([name for name in MODULES if name.split(".")[-1] in FRONT or name == "nntrain"], "nntrain")
    for room in MAY_IMPORT:
        yield from contents(modules_of(room), room)


# -- who may import whom ------------------------------------------------------------------------------------------


def below(room: str) -> set[str]:
    """Return all rooms that lie below one, however many imports lead there."""
    return {*MAY_IMPORT[room], *(lower for other in MAY_IMPORT[room] for lower in below(other))}


def arrows(room: str) -> list[str]:
    """Return the rooms that a room may import, less those that lie below another of them."""
    others = MAY_IMPORT[room]
    return [lower for lower in MAY_IMPORT if lower in others and not any(lower in below(other) for other in others)]


def chart() -> Iterator[str]:
    yield "flowchart TD"
    for room in reversed([*TopologicalSorter({room: sorted(MAY_IMPORT[room]) for room in MAY_IMPORT}).static_order()]):
        yield from (f"    {room} --> {lower}" for lower in arrows(room))


def import_table() -> Iterator[str]:
    yield "| room | may import |"
    yield "|---|---|"
    for room, others in MAY_IMPORT.items():
        yield f"| `{room}` | {', '.join(f'`{other}`' for other in MAY_IMPORT if other in others) or 'none'} |"


# -- following a state --------------------------------------------------------------------------------------------

FORMS: Final = (TrainState, Cursor, Position, Tensors, WeightedSums, Flight, Step, Published, Transition)
"""The forms in which a state, or a part of it, is handed on."""
DECIDING: Final = "machine"
"""The room whose private functions are shown too: the way of a state is decided there."""
YOURS: Final = "yours"
"""The room of what a user writes."""
SUPPORT: Final = ("errors", "values")
"""The rooms that all others use: their functions are shown where the state is handed to them."""
ANY_RECORD: Final = evolved.__module__
"""The module whose functions take any record, and so say nothing of a state's way."""
COPYING: Final = Workspace._give_copy
"""Not followed: it depends on who holds an old state, and a Python that is watched holds some a little longer."""


@dataclass(frozen=True)
class Function:
    """A function of the package, or of the user."""

    room: str
    module: str
    name: str
    said: str

    @property
    def private(self) -> bool:
        return any(part.startswith("_") for part in self.name.split("."))


@dataclass
class Call:
    """A call on the way: of which function, from which room, and the calls that were made in it.

    `line` is where the call that it was made in had got to, and `handed` says whether the state was handed over.
    """

    function: Function
    caller: str
    line: int
    handed: bool
    calls: list[Call] = field(default_factory=list)


@dataclass
class Running:
    """A function that runs while a state is followed, and where the calls in it are noted."""

    frame: FrameType
    room: str
    calls: list[Call]
    shown: FrameType
    """The last function that was noted: this one, or one that called it."""


def room_of_code(code: CodeType, module: str) -> str:
    """Return a function's room; this file plays the user."""
    return YOURS if code.co_filename == __file__ else room_of(module)


@cache
def function_of(code: CodeType, module: str) -> Function | None:
    """Return the function that has this code; None for what has no name, or is a property or a generator."""
    value: object = sys.modules[module]
    for part in code.co_qualname.split("."):
        value = inspect.getattr_static(value, part, None)
    if isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    if not callable(value):
        return None
    value = inspect.unwrap(value)
    if not inspect.isfunction(value) or value.__code__ is not code or inspect.isgeneratorfunction(value):
        return None
    if code.co_name.startswith("__") and code.co_name.endswith("__"):
        return None
    return Function(room_of_code(code, module), module, code.co_qualname, value.__doc__ or "")


def is_handed(frame: FrameType) -> bool:
    """Return whether a function that was just called is given the state in one of its forms, or a list of it."""
    code, values = frame.f_code, frame.f_locals
    stars = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + stars]
    given = [values[name] for name in names if name in values]
    return any(
        isinstance(one, FORMS) or (type(one) in {list, tuple} and any(isinstance(item, FORMS) for item in one))
        for one in given
    )


def is_shown(function: Function, caller: str, *, handed: bool) -> bool:
    """Return whether a call is on the way. The page states this rule in words."""
    if function.room == YOURS:
        return True
    if function.private and function.room != DECIDING:
        return False
    if handed:
        return function.module != ANY_RECORD
    return function.room not in {caller, *SUPPORT} and function.room in MAY_IMPORT.get(caller, ())


def followed(run: Callable[[], object]) -> list[Call]:
    """Run something, and return the calls on the way of the state."""
    found: list[Call] = []
    stack: list[Running] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "return" and stack and stack[-1].frame is frame:
            stack.pop()
        code, module = frame.f_code, frame.f_globals.get("__name__", "")
        room = room_of_code(code, module)
        if event != "call" or (room != YOURS and module.partition(".")[0] != "nntrain"):
            return
        last = stack[-1] if stack else Running(frame, YOURS, found, frame)
        shown, calls = last.shown, last.calls
        function, handed = function_of(code, module), is_handed(frame)
        if code is COPYING.__code__:
            calls = []
        elif function is not None and is_shown(function, last.room, handed=handed):
            calls.append(Call(function, last.room, shown.f_lineno, handed))
            shown, calls = frame, calls[-1].calls
        stack.append(Running(frame, room, calls, shown))

    before, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()  # so that nothing which others left behind ends meanwhile
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
        if collecting:
            gc.enable()
    return found


class MyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        preds: Tensor = self.linear(inputs)
        return preds


def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).square().mean()


def metric_fn(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).abs().mean()


class MySubscriber(Subscriber[object]):
    def before_fit(self, state: TrainState) -> TrainState:
        return state

    def before_epoch(self, state: TrainState) -> TrainState:
        return state

    def before_batch(self, state: TrainState, batch: object) -> TrainState:
        return state

    def after_batch(self, state: TrainState, batch: object, output: BatchOutput) -> TrainState:
        return state

    def after_epoch(self, state: TrainState) -> TrainState:
        return state

    def after_fit(self, state: TrainState) -> TrainState:
        return state


def my_sink(transition: Transition) -> None:
    pass


Who = Literal["nobody", "somebody"]


@cache
def way(watching: Who) -> list[Call]:
    """Follow a state through a small fit on a CPU: two batches to train on, and one to evaluate on."""
    batch = torch.zeros(2, 2), torch.zeros(2, 1)
    dls = DataLoaders([batch, batch], [batch])
    subs = [MySubscriber()] if watching == "somebody" else []
    sinks = [my_sink] if watching == "somebody" else []
    learner = Learner(MyModel(), dls, loss_fn, metric_fn, torch.optim.SGD, 0.1, subs, sinks=sinks, device="cpu")
    fit_step(learner, learner.init(), epochs=1)  # what a learner works out once is no part of the way
    state = learner.init()
    return followed(lambda: fit_step(learner, state, epochs=1))


# -- drawing the way ----------------------------------------------------------------------------------------------


def within(calls: Iterable[Call]) -> Iterator[Call]:
    """Yield calls and those made in them, as they were made."""
    for call in calls:
        yield call
        yield from within(call.calls)


def folded(calls: Sequence[Call]) -> list[Call]:
    """Return repeated calls as one, in the order of the code that makes them."""
    first = {call.function: place for place, call in reversed([*enumerate(calls)])}
    ordered = sorted(calls, key=lambda call: (call.line, first[call.function]))
    together = []
    for function, group in itertools.groupby(ordered, key=lambda call: call.function):
        same = [*group]
        inner = folded([call for one in same for call in one.calls])
        together.append(Call(function, same[0].caller, same[0].line, any(one.handed for one in same), inner))
    return together


def one_batch(calls: Sequence[Call]) -> list[Call]:
    """Return what is done for the second batch to train on: one turn of the innermost loop that asks for batches."""

    def asked(call: Call) -> int:
        return sum(one.function.room == "data" for one in within([call]))

    turns = 3  # two batches, and the end of the data
    while inner := [call.calls for call in calls if asked(call) >= turns]:
        calls = inner[0]
    names = [call.function for call in calls]
    (asking,) = {call.function for call in calls if asked(call)}
    begins = next(name for name in names if names.count(name) == names.count(asking))
    _, start, end, *_ = [place for place, name in enumerate(names) if name == begins]
    return list(calls[start:end])


def sequence(calls: Sequence[Call]) -> Iterator[str]:
    """Draw the calls that go from one room to another."""
    yield "sequenceDiagram"
    crossing = [call for call in within(calls) if call.caller != call.function.room]
    lanes = dict.fromkeys(room for call in crossing for room in (call.caller, call.function.room))
    yield from (f"    participant {room}" for room in sorted(lanes, key=lambda room: room == YOURS))
    yield from (f"    {call.caller}->>{call.function.room}: {call.function.name}" for call in crossing)


def is_known(call: Call, known: Sequence[Call]) -> bool:
    """Return whether a call, and all those made in it, are among those known."""
    return any(
        call.function == one.function and all(is_known(inner, one.calls) for inner in call.calls) for one in known
    )


def numbered(calls: Sequence[Call], known: Sequence[Call] | None = None, indent: str = "") -> Iterator[str]:
    """Yield calls as a numbered list. Where some are `known`, the others are marked, and nothing else is opened."""
    for number, call in enumerate(calls, 1):
        same = [inner for one in known or () if one.function == call.function for inner in one.calls]
        new = known is not None and all(one.function != call.function for one in known)
        name = f"**`{call.function.name}`**" if call.handed else f"`{call.function.name}`"
        said = re.split(r"[:;]\s", sentence(call.function.said))[0].rstrip(".")
        yield f"{indent}{number}. {'*new* ' if new else ''}{name} ({call.function.room}){said and f': {said}.'}"
        if known is None or new:
            yield from numbered(call.calls, None, f"{indent}    ")
        elif not is_known(call, known):
            yield from numbered(call.calls, same, f"{indent}    ")


def counted(calls: Sequence[Call]) -> str:
    """Return in words through how much a state goes."""
    own = {call.function for call in within(calls) if call.handed and call.function.room != YOURS}
    return f"{len(own)} functions in {len({one.room for one in own})} rooms"


# -- the page -----------------------------------------------------------------------------------------------------


def forms() -> Iterator[str]:
    yield "| form | module | what it is |"
    yield "|---|---|---|"
    for form in FORMS:
        yield f"| `{form.__name__}` | `{form.__module__}` | {sentence(form.__doc__ or '')} |"


def lines(made: Iterable[str]) -> str:
    return "\n".join(made)


def page() -> str:
    alone, watched = way("nobody"), way("somebody")
    return f"""# The map

This page shows three things: what each part of nntrain is for, which part may import which, and what happens to a
state in `fit_step`. It is made from the code. `python -m tests.docs.map` writes it anew, and a test compares the two.

## The rooms

A room is a folder of the package, or the one file `errors.py`. Each room has one task. What always holds in a room is
its invariant: code in other rooms may rely on it, and a change must keep it. To find the place for a change, look at
[what is in each room](#what-is-in-each-room), at the end of this page.

{lines(rooms())}

## Who may import whom

Imports go down only. In the chart an arrow leads from a room to a room that it may import. To keep the chart small, an
arrow is left out where a longer way down leads to the same room. The table below the chart is complete. It is
`MAY_IMPORT` in `tests/test_rooms.py`, and the tests there compare it with every import of the package.

```mermaid
{lines(chart())}
```

{lines(import_table())}

The package's own files ({", ".join(f"`{name}`" for name in sorted(FRONT))}) are the front, and may import every room.

## The way of a state

This part is made by running `fit_step` and noting each call. The fit is small: one epoch on a CPU, two batches to train
on and one to evaluate on, nothing compiled or recorded. It is run twice. First nobody watches. Then two watch: a
subscriber that listens to all six events, and a sink. `{YOURS}` is what a user writes: the model, the loss, the metric,
the subscriber and the sink.

### One batch that nobody watches

These are the calls from one room to another for the second batch, from top to bottom:

```mermaid
{lines(sequence(one_batch(alone)))}
```

### One batch that a subscriber and a sink watch

```mermaid
{lines(sequence(one_batch(watched)))}
```

### A fit that nobody watches

The state is handed to {counted(alone)}. Each call stands below the call that makes it, in the order of the code. A
call that is made many times stands here once, with all that it does in any batch, phase or event of the fit.

A **bold** function is handed the state. Any other does a part of the work in another room, and is handed something
else, such as a batch. The words after a name are the beginning of the function's docstring.
[What is shown](#what-is-shown) says which calls are left out.

{lines(numbered(folded(alone)))}

### A fit that a subscriber and a sink watch

The state is handed to {counted(watched)}. A call marked *new* is not made where nobody watches. Where all calls
inside a call are known from the list above, they are not repeated here.

{lines(numbered(folded(watched), folded(alone)))}

### What is shown

A state is handed on in several forms:

{lines(forms())}

A call is shown if one of these is true:

* The function is one of `{YOURS}`.
* The function is handed one of these forms, or a list of them, and it is public. In `{DECIDING}`, where the way is
  decided, the functions whose names begin with an underscore are shown too.
* The function is public and belongs to another room than the one that calls it, which may import that room. For
  {" and ".join(f"`{room}`" for room in SUPPORT)}, which all rooms use, this is not enough.

Never shown are:

* properties, generators, methods such as `__init__`, functions without a name, and functions inside other functions;
* the functions of `{ANY_RECORD}`, which take any record;
* what `{COPYING.__qualname__}` calls, to copy an old state that somebody has kept.

## What is in each room

{lines(all_contents()).rstrip()}
"""


if __name__ == "__main__":
    sys.stdout.write(page())
