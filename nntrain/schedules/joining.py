"""Schedules made of others: one after the other, after a warm-up, or side by side in a tuple."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from nntrain.errors import ConfigError
from nntrain.schedules.curve import curve

Rate = Callable[[int], float]


@curve
def sequence(step: int, schedules: Sequence[Rate], *, at: Sequence[int]) -> float:
    """Return the schedule that is each of `schedules` in turn: it goes over to the next at the steps `at`.

    Each counts from 0 where it begins, as in torch's `SequentialLR(schedulers, milestones=at)`.

    >>> schedule = sequence([lambda step: 0.1, lambda step: 0.2 + step], at=[2])
    >>> [schedule(step) for step in range(4)]
    [0.1, 0.1, 0.2, 1.2]
    """
    if len(at) != len(schedules) - 1 or any(one >= other for one, other in pairwise(at)):
        raise ConfigError(
            f"sequence: at is {list(at)} for {len(schedules)} schedules; expected where each but the first begins, one "
            f"after the other."
        )
    index = bisect_right(at, step)
    return schedules[index](step - at[index - 1] if index else step)


@curve
def warmup(step: int, schedule: Rate, *, steps: int, start: float = 0.0) -> float:
    """Return the schedule that goes to the first rate of `schedule` in a line, and on with it after `steps`.

    It begins at `start` times that rate. `schedule` counts from 0 after the warm-up, and so ends `steps` later.
    """
    if step >= steps:
        return schedule(step - steps)
    first = schedule(0)
    if not first:
        raise ConfigError(f"warmup: {schedule!r} begins at 0, and there is nothing to warm up to. Leave one of them.")
    return first * (start + (1.0 - start) * step / steps)


@curve
def tuple_of(step: int, *parts: Rate | float) -> tuple[float, ...]:
    """Return the schedule of a tuple, each part of it a number or a schedule: `betas=tuple_of(momentum, 0.999)`."""
    return tuple(part(step) if callable(part) else part for part in parts)
