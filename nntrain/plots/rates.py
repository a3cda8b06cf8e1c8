"""Learning rates: a schedule before it is trained with, and a range test."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from nntrain.errors import ConfigError
from nntrain.evaluation.range_test import RangeTest
from nntrain.log.report.run_view import colour
from nntrain.plots.axes import axes_of, draw_line, legend
from nntrain.schedules.curve import Curve
from nntrain.values.calls import call_problem, class_of_calls, function_name
from nntrain.values.numbers import is_count

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Schedule = Callable[[int], float | tuple[float, ...]]
"""A function of the step: what an update rule takes in the place of a number, or of a tuple like betas."""
_POINTS: Final = 10_000
"""Of a schedule of more steps, so many are drawn."""


def schedule(
    schedules: Schedule | Sequence[Schedule] | Mapping[str, Schedule],
    *,
    steps: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Return the axes with one schedule or several over so many steps, from step 0; a mapping names them.

    Without `steps`, it is the most that any of them was made with. A schedule of a tuple, like betas, is a line for
    each place. Of more than 10,000 steps so many are drawn. Where a value is not finite there is a cross at the bottom.

    Raises `ConfigError` for what is no schedule, and without `steps` where none of them says how many.
    """
    named = _named(schedules)
    count = _steps(named.values(), steps)
    axes = axes_of(ax)
    every = range(count) if count <= _POINTS else [place * (count - 1) // (_POINTS - 1) for place in range(_POINTS)]
    entries: list[tuple[Artist, str]] = []
    for name, one in named.items():
        for place, values in _values(one, every).items():
            entries.append((draw_line(axes, every, values, colour(len(entries))), f"{name}{place}"))
    axes.set(xlabel="step", ylabel="learning rate" if callable(schedules) else "value")
    legend(axes, entries)
    return axes


def _named(schedules: Schedule | Sequence[Schedule] | Mapping[str, Schedule]) -> Mapping[str, Schedule]:
    if isinstance(schedules, Mapping):
        named = {str(name): one for name, one in schedules.items()}
    else:
        several = [*schedules] if isinstance(schedules, Sequence) else [schedules]
        said = [function_name(one) for one in several]
        named = {
            text if said.count(text) == 1 else f"{text} ({place})": one
            for place, (text, one) in enumerate(zip(said, several, strict=True), start=1)
        }
    for name, one in named.items():
        if not callable(one) or class_of_calls(one) is not None or call_problem(one, 0) is not None:
            raise ConfigError(
                f"{name} is no schedule: a {type(one).__name__}; expected a function of the step, like "
                f"nntrain.schedules.cosine(0.1, steps=1000), several of them, or a mapping that names them."
            )
    if not named:
        raise ConfigError("There is no schedule to draw: expected one, several, or a mapping that names them.")
    return named


def _steps(schedules: Collection[Schedule], steps: int | None) -> int:
    made_with = [one.kwargs.get("steps") for one in schedules if isinstance(one, Curve)]
    known = [count for count in made_with if isinstance(count, int)]
    count = max(known, default=None) if steps is None else steps
    if count is None:
        raise ConfigError("None of the schedules says how many steps it takes; say how many to draw: steps=1000.")
    if not is_count(count, 1):
        raise ConfigError(f"steps is {count!r}; expected a whole number of 1 or more.")
    return count


def _values(one: Schedule, steps: Sequence[int]) -> Mapping[str, Sequence[float]]:
    """Return the values at the steps, of a tuple by its places."""
    values = [one(step) for step in steps]
    if isinstance(values[0], tuple):
        rows = [value if isinstance(value, tuple) else (value,) for value in values]
        return {f"[{place}]": column for place, column in enumerate(zip(*rows, strict=True))}
    return {"": [value for value in values if not isinstance(value, tuple)]}


def range_test(found: RangeTest, *, ax: Axes | None = None) -> Axes:
    """Return the axes with the losses that `lr_find` found, by rate, and the rates that it suggests.

    Where the loss never falls there is no suggestion, and the curve alone.
    """
    if not isinstance(found, RangeTest):
        raise ConfigError(f"range_test takes what lr_find returns, a RangeTest; got a {type(found).__name__}.")
    axes = axes_of(ax)
    draw_line(axes, found.lrs, found.losses, colour(0))
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    entries: list[tuple[Artist, str]] = []
    if found.falls:
        for place, (name, lr) in enumerate({"steepest": found.steepest, "valley": found.valley}.items(), start=1):
            (dot,) = axes.plot([lr], [found.losses[found.lrs.index(lr)]], "o", color=colour(place), markersize=8)
            entries.append((dot, f"{name}: {lr:.2g}"))
    legend(axes, entries)
    return axes
