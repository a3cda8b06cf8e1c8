"""The schedules by their formulas, each a function of the step and of what it is made with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from nntrain.errors import ConfigError
from nntrain.schedules.curve import curve


@curve
def constant(step: int, lr: float) -> float:  # noqa: ARG001 - as the others
    """Return the schedule that is always `lr`."""
    return lr


@curve
def linear(step: int, lr: float, *, steps: int, start: float, end: float) -> float:
    """Return the schedule that goes from `start` to `end` times `lr` in a line, and then stays there.

    It is torch's `LinearLR(start_factor=start, end_factor=end, total_iters=steps)`: `end` is reached at step `steps`.

    >>> [linear(0.5, steps=4, start=0.0, end=1.0)(step) for step in range(6)]
    [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]
    """
    return _line(step, lr, steps, start, end)


@curve
def cosine(step: int, lr: float, *, steps: int, warmup_steps: int = 0, end: float = 0.0) -> float:
    """Return the schedule that falls from `lr` to `end` times `lr` as a cosine, and then stays there.

    `steps` is how many it takes in all, with the warm-up: its first `warmup_steps` go from 0 to `lr` in a line, so that
    step 0 has rate 0, as in transformers and optax. It is torch's `CosineAnnealingLR(T_max=steps, eta_min=end * lr)`,
    which goes up again where this one stays. Loshchilov and Hutter, "SGDR", 2017.

    >>> [round(cosine(1.0, steps=6, warmup_steps=2)(step), 4) for step in range(7)]
    [0.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    if warmup_steps >= steps:
        raise ConfigError(f"cosine: warmup_steps is {warmup_steps} of {steps} steps in all; expected fewer.")
    if step < warmup_steps:
        return _line(step, lr, warmup_steps, 0.0, 1.0)
    return _half_wave(step - warmup_steps, lr, steps - warmup_steps, end)


@curve
def cosine_restarts(step: int, lr: float, *, every: int, times: int = 1, end: float = 0.0) -> float:
    """Return the schedule that falls from `lr` to `end` times `lr` as a cosine, again and again, without an end.

    The first fall takes `every` steps, each other one `times` as many as the one before. It is torch's
    `CosineAnnealingWarmRestarts(T_0=every, T_mult=times, eta_min=end * lr)`.
    """
    if times == 1:
        return _half_wave(step % every, lr, every, end)
    while step >= every:
        step -= every
        every *= times
    return _half_wave(step, lr, every, end)


@curve
def step(step: int, lr: float, *, every: int, gamma: float) -> float:
    """Return the schedule that is multiplied with `gamma` every so many steps, without an end: torch's `StepLR`."""
    return lr * _power(gamma, step // every)


@curve
def exponential(step: int, lr: float, *, gamma: float) -> float:
    """Return the schedule that is multiplied with `gamma` at each step, without an end: torch's `ExponentialLR`."""
    return lr * _power(gamma, step)


@curve
def polynomial(step: int, lr: float, *, steps: int, power: float) -> float:
    """Return the schedule that falls from `lr` to 0 as a polynomial, and then stays there: torch's `PolynomialLR`."""
    return float(lr * (1.0 - min(step, steps) / steps) ** power)


@curve
def one_cycle(
    step: int,
    lr: float,
    *,
    steps: int,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> float:
    """Return the schedule that rises to `lr`, and falls to almost nothing at its last step: torch's `OneCycleLR`.

    It begins at `lr / div_factor`, is at its highest after the share `pct_start` of its steps, and ends, at step
    `steps - 1`, at `lr / div_factor / final_div_factor`, where it stays. With `three_phase` it falls to where it began
    in as many steps as it rose, and from there to the end. `one_cycle_momentum` goes with it. Smith and Topin, "Super-
    Convergence", 2018.
    """
    low = lr / div_factor
    points = (low, lr, low, low / final_div_factor) if three_phase else (low, lr, low / final_div_factor)
    return _cycle("one_cycle", step, steps, points, pct_start, anneal_strategy)


@curve
def one_cycle_momentum(
    step: int,
    *,
    steps: int,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    three_phase: bool = False,
) -> float:
    """Return the schedule of the momentum that goes with `one_cycle`: low where the rate is high.

    For SGD it is `momentum=one_cycle_momentum(steps=n)`, for Adam `betas=tuple_of(one_cycle_momentum(steps=n), 0.999)`.
    """
    high = max_momentum
    points = (high, base_momentum, high, high) if three_phase else (high, base_momentum, high)
    return _cycle("one_cycle_momentum", step, steps, points, pct_start, anneal_strategy)


@curve
def warmup_stable_decay(
    step: int,
    lr: float,
    *,
    steps: int,
    warmup_steps: int,
    decay_steps: int,
    end: float = 0.0,
    decay: Literal["linear", "cosine"] = "linear",
) -> float:
    """Return the schedule that rises from 0 to `lr` in a line, stays there, and falls to `end` times `lr` at the end.

    `steps` is how many it takes in all. What comes before the last `decay_steps` does not depend on it: a training may
    be prolonged from a state before them. Hu et al., "MiniCPM", 2024.
    """
    if warmup_steps + decay_steps > steps:
        raise ConfigError(
            f"warmup_stable_decay: warmup_steps is {warmup_steps} and decay_steps {decay_steps}, of {steps} steps in "
            f"all; expected no more together."
        )
    if step < warmup_steps:
        return _line(step, lr, warmup_steps, 0.0, 1.0)
    since = step - (steps - decay_steps)
    if since < 0 or not decay_steps:
        return lr
    return _line(since, lr, decay_steps, 1.0, end) if decay == "linear" else _half_wave(since, lr, decay_steps, end)


def _line(step: int, lr: float, steps: int, start: float, end: float) -> float:
    """Return the rate on the line from `start` times `lr` to `end` times `lr`, which ends after `steps`."""
    return lr * (start + (end - start) * step / steps) if step < steps else lr * end


def _half_wave(step: int, lr: float, steps: int, end: float) -> float:
    """Return the rate on the half wave from `lr` to `end` times `lr`, which ends after `steps`."""
    low = lr * end
    if step >= steps:
        return low
    return low + (lr - low) * (1 + math.cos(math.pi * step / steps)) / 2 if step else lr


def _power(base: float, exponent: int) -> float:
    """Return a power; infinity where that is too large, which the optimizer refuses with the step."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def _cycle(  # noqa: PLR0917 - all that the two cycles share
    name: str, step: int, steps: int, points: Sequence[float], pct_start: float, strategy: str
) -> float:
    """Return the value on the way through `points`, the second after `pct_start` of the steps."""
    first = float(pct_start * steps) - 1
    ends = [first, float(2 * pct_start * steps) - 2, steps - 1] if len(points) == 4 else [first, steps - 1]
    if len(points) == 4 and pct_start > 0.5:
        raise ConfigError(f"{name}: pct_start is {pct_start} with three_phase; expected 0.5 at most: it falls as long.")
    step = min(step, steps - 1)
    leg = next((index for index, end in enumerate(ends[:-1]) if step <= end), len(ends) - 1)
    begin, until = ([0.0, *ends])[leg : leg + 2]
    start, end = points[leg : leg + 2]
    part = (step - begin) / (until - begin) if until > begin else 1.0
    if strategy == "linear":
        return (end - start) * part + start
    return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)
