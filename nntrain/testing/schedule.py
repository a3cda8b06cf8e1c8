"""`check_schedule`: a schedule is a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nntrain.errors import ConfigError
from nntrain.testing.examples import check_examples, expect_callable, st
from nntrain.testing.laws import Law, LawBrokenError
from nntrain.testing.purity import probe_call
from nntrain.update.schedules import check_scheduled
from nntrain.values.bits import same_bits
from nntrain.values.calls import function_name

Scheduled = Callable[[int], object]


def check_schedule(schedule: Scheduled, *, hyperparameter: str = "lr", steps: int = 1000, examples: int = 50) -> None:
    """Check that a schedule is a function of the step (0, 1, ...) alone, to a finite rate of 0 or more.

    It is called with steps below `steps` in any order, as by a training that rolls back or is resumed. Of another
    `hyperparameter` than "lr" it returns any finite number, or a tuple of such.

    Raises `LawBrokenError`: no rate ("answers"), another rate for the same step ("determinism", "order"), effects.
    """
    expect_callable(schedule, "schedule", "a function of the step (0, 1, ...) to a learning rate")
    name = function_name(schedule)
    asked = st.lists(st.integers(0, max(steps - 1, 0)), min_size=2, max_size=10)
    check_examples(lambda given: _check(schedule, name, hyperparameter, given), asked, examples)
    for step in range(steps):
        _value(schedule, name, hyperparameter, step)


def _check(schedule: Scheduled, name: str, hyperparameter: str, asked: Sequence[int]) -> None:
    there = [_value(schedule, name, hyperparameter, step) for step in asked]
    back = [_value(schedule, name, hyperparameter, step) for step in reversed(asked)][::-1]
    for step, one, other in zip(asked, there, back, strict=True):
        if not same_bits(one, other):
            said = f"it depends on the order of its calls: step {step} gave {one}, and later {other}"
            raise LawBrokenError("order", name, said, run=f"steps {', '.join(map(str, asked))}, and back")


def _value(schedule: Scheduled, name: str, hyperparameter: str, step: int) -> object:
    def broken(law: Law, said: str) -> LawBrokenError:
        return LawBrokenError(law, name, f"it {said}", run=f"step {step}")

    value: object = probe_call(lambda: schedule(step), broken)
    try:
        check_scheduled(hyperparameter, value, step)
    except ConfigError as error:
        expected = str(error).partition("; ")[2].removesuffix(".")
        raise broken("answers", f"gave {value!r:.60}; {expected}") from None
    again = schedule(step)
    if not same_bits(value, again):
        raise broken("determinism", f"gave {value}, and then {again}")
    return value
