"""`check_schedule`: a schedule is a function of the step."""

from __future__ import annotations

from collections.abc import Sequence

from nntrain.testing.broken import Law, LawBrokenError
from nntrain.testing.purity import watched
from nntrain.testing.trying import expect_callable, st, tried
from nntrain.update.schedules import Schedule, is_lr
from nntrain.values.bits import same_bits


def check_schedule(schedule: Schedule, *, steps: int = 1000, examples: int = 50) -> None:
    """Hold a schedule to what a state needs of it: step (0, 1, ...) to a finite rate of 0 or more, and nothing else.

    It is asked for steps below `steps` in any order, as a training is that goes back or is resumed.

    Raises `LawBrokenError`: no rate ("answers"), another rate for the same step ("determinism", "order"), effects.
    """
    expect_callable(schedule, "schedule", "a function of the step (0, 1, ...) to a learning rate")
    name = getattr(schedule, "__name__", type(schedule).__name__)
    asked = st.lists(st.integers(0, max(steps - 1, 0)), min_size=2, max_size=10)
    tried(lambda given: _check(schedule, name, given), asked, examples)
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
        return LawBrokenError(law, name, said, run=f"step {step}")

    rate, seen, moved = watched(lambda: schedule(step))
    if seen:
        raise broken(seen[0].law, f"it {seen[0].said}")
    if moved:
        raise broken("manners", f"it changed {' and '.join(moved)}")
    if not is_lr(rate):
        raise broken("answers", f"it gave {rate!r:.60}; expected a finite number of 0 or more")
    again = schedule(step)
    if not same_bits(rate, again):
        raise broken("determinism", f"it gave {rate}, and then {again}")
    return float(rate)
