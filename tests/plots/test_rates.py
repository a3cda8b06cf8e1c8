"""Schedules are drawn as they are, and a range test with what it suggests."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from nntrain import RangeTest, plots
from nntrain.errors import ConfigError
from nntrain.schedules import constant, cosine, exponential, linear, one_cycle_momentum, tuple_of
from tests.plots.drawn import crosses, curves, finite, legend, own_axes, points


def test_a_schedule_is_drawn_step_by_step() -> None:
    rate = cosine(0.1, steps=20, warmup_steps=5)
    axes = plots.schedule(rate, ax=own_axes())
    assert points(curves(axes)[0]) == [(step, rate(step)) for step in range(20)]
    assert legend(axes) == ["cosine(0.1, steps=20, warmup_steps=5)"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "learning rate")


def test_several_are_drawn_over_the_longest_or_over_as_many_steps_as_are_asked_for() -> None:
    short, long = linear(0.1, steps=5, start=1.0, end=0.0), cosine(0.1, steps=9)
    axes = plots.schedule([short, long, constant(0.3)], ax=own_axes())
    assert [points(line)[-1] for line in curves(axes)] == [(8, 0.0), (8, long(8)), (8, 0.3)]
    assert [points(line)[-1][0] for line in curves(plots.schedule([short, long], steps=3, ax=own_axes()))] == [2, 2]
    assert legend(plots.schedule([short, short], ax=own_axes())) == [f"{short!r} (1)", f"{short!r} (2)"]


def test_a_mapping_names_them_and_a_tuple_is_a_line_for_each_place() -> None:
    momentum = one_cycle_momentum(steps=10)
    axes = plots.schedule({"_lr$": cosine(0.1, steps=10), "betas": tuple_of(momentum, 0.999)}, ax=own_axes())
    assert legend(axes) == ["_lr$", "betas[0]", "betas[1]"]
    assert [points(line)[3][1] for line in curves(axes)][1:] == [momentum(3), 0.999]


def test_of_very_many_steps_some_are_drawn_the_first_and_the_last_too() -> None:
    asked: list[int] = []

    def rate(step: int) -> float:
        asked.append(step)
        return float(step)

    line = curves(plots.schedule(rate, steps=10**9, ax=own_axes()))[0]
    assert len(points(line)) == 10_000
    assert (points(line)[0], points(line)[-1]) == ((0, 0), (10**9 - 1, 10**9 - 1))
    assert len(asked) <= 10_001


def test_a_rate_that_is_not_finite_is_a_cross() -> None:
    rate: Callable[[int], float] = lambda step: math.nan if step == 2 else 1.0  # noqa: E731
    axes = plots.schedule(rate, steps=4, ax=own_axes())
    assert [x for x, _ in finite(curves(axes)[0])] == [0, 1, 3]
    assert crosses(axes) == [2]


@pytest.mark.parametrize(
    ("schedules", "steps", "said"),
    [
        (0.1, 5, "no schedule: a float; expected a function of the step"),
        ([cosine(0.1, steps=3), "warm"], 5, "no schedule: a str"),
        ({"lr": float}, 5, "lr is no schedule: a type"),
        ([], 5, "There is no schedule to draw"),
        (exponential(0.1, gamma=0.9), None, "None of the schedules says how many steps .* steps=1000"),
        (exponential(0.1, gamma=0.9), 0, "steps is 0; expected a whole number of 1 or more"),
        (exponential(0.1, gamma=0.9), 1.5, "steps is 1.5"),
    ],
)
def test_what_cannot_be_drawn_is_refused(schedules: Any, steps: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plots.schedule(schedules, steps=steps, ax=own_axes())


def found_of(losses: list[float]) -> RangeTest:
    return RangeTest(lrs=tuple(10.0 ** (place - 4) for place in range(len(losses))), losses=tuple(losses), steps=5)


def test_a_range_test_is_drawn_with_its_suggestions() -> None:
    found = found_of([3.0, 2.5, 1.0, 0.8, 3.0])
    axes = plots.range_test(found, ax=own_axes())
    assert axes.get_xscale() == "log"
    curve, steepest, valley = axes.lines
    assert points(curve) == [*zip(found.lrs, found.losses, strict=True)]
    for dot, lr in ((steepest, found.steepest), (valley, found.valley)):
        assert points(dot) == [(lr, found.losses[found.lrs.index(lr)])]
    assert legend(axes) == [f"steepest: {found.steepest:.2g}", f"valley: {found.valley:.2g}"]


def test_a_loss_that_never_falls_is_drawn_without_suggestions() -> None:
    axes = plots.range_test(found_of([1.0, 2.0, 3.0]), ax=own_axes())
    assert len(axes.lines) == 1
    assert legend(axes) == []


def test_what_is_no_range_test_is_refused() -> None:
    wrong: Any = [1.0]
    with pytest.raises(ConfigError, match="takes what lr_find returns, a RangeTest; got a list"):
        plots.range_test(wrong, ax=own_axes())
