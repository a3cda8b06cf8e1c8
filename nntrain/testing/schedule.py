"""`check_schedule`: a schedule is a function of the step."""

from __future__ import annotations

from collections.abc import Sequence

from nntrain.testing.examples import check_examples, expect_callable, st
from nntrain.testing.laws import Law, LawBrokenError
from nntrain.testing.purity import probe_call
from nntrain.update.schedules import Schedule, is_lr
from nntrain.values.bits import same_bits


def check_schedule(schedule: Schedule, *, steps: int = 1000, examples: int = 50) -> None:
    """Check that a schedule is a function of the step (0, 1, ...) alone, to a finite rate of 0 or more.

    It is called with steps below `steps` in any order, as by a training that rolls back or is resumed.

    Raises `LawBrokenError`: no rate ("answers"), another rate for the same step ("determinism", "order"), effects.
    """
    expect_callable(schedule, "schedule", "a function of the step (0, 1, ...) to a learning rate")
    name = getattr(schedule, "__name__", type(schedule).__name__)
    asked = st.lists(st.integers(0, max(steps - 1, 0)), min_size=2, max_size=10)
    check_examples(lambda given: _check(schedule, name, given), asked, examples)
    for step in range(steps):
        _rate(schedule, name, step)


def _check(schedule: Schedule, name: str, asked: Sequence[int]) -> None:
    there = [_rate(schedule, name, step) for step in asked]
    back = [_rate(schedule, name, step) for step in reversed(asked)][::-1]
    for step, one, other in zip(asked, there, back, strict=True):
        if not same_bits(one, other):
            said = f"it depends on the order of its calls: step {step} gave {one}, and later {other}"
            raise LawBrokenError("order", name, said, run=f"steps {', '.join(map(str, asked))}, and back")


def _rate(schedule: Schedule, name: str, step: int) -> float:
    def broken(law: Law, said: str) -> LawBrokenError:
        return LawBrokenError(law, name, f"it {said}", run=f"step {step}")

    rate = probe_call(lambda: schedule(step), broken)
    if not is_lr(rate):
        raise broken("answers", f"gave {rate!r:.60}; expected a finite number of 0 or more")
    again = schedule(step)
    if not same_bits(rate, again):
        raise broken("determinism", f"gave {rate}, and then {again}")
    return float(rate)
