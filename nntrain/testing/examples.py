"""The search for a broken law: Hypothesis generates runs, and shrinks one that breaks a law to the smallest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nntrain.errors import ConfigError, MissingExtraError
from nntrain.testing.laws import LawBrokenError
from nntrain.values.numbers import is_count

try:
    from hypothesis import HealthCheck, Phase, errors, given, settings
    from hypothesis import strategies as st
except ImportError as _missing:
    raise MissingExtraError("nntrain.testing needs Hypothesis: pip install 'nntrain[testing]'.") from _missing

__all__ = ["check_examples", "expect_callable", "st"]

Drawn = TypeVar("Drawn")


def expect_callable(given: object, argument: str, expected: str) -> None:
    """Raise `ConfigError` where an argument cannot be called."""
    if not callable(given):
        raise ConfigError(f"{argument} is {given!r:.80}; expected {expected}.")


def check_examples(
    check: Callable[[Drawn], None],
    drawn: st.SearchStrategy[Drawn],
    examples: int,
    *,
    describe: Callable[[Drawn], str] = str,
) -> None:
    """Call `check` with up to `examples` drawn values, the same each time; raise its error for the smallest.

    `describe` puts a drawn value into words, for a broken law that does not name its run.
    """
    if not is_count(examples, 1):
        raise ConfigError(f"examples is {examples!r}; expected how many runs to try, 1 or more.")
    found: list[LawBrokenError] = []

    @settings(
        max_examples=examples,
        phases=(Phase.generate, Phase.shrink),
        deadline=None,
        database=None,
        derandomize=True,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.nested_given),
    )
    @given(drawn)
    def holds(one: Drawn) -> None:
        try:
            check(one)
        except LawBrokenError as error:
            found.append(error.with_run(describe(one)))
            raise

    try:
        holds()
    except LawBrokenError:
        broken = found[-1]  # the smallest, which Hypothesis runs last
    except errors.Flaky:
        if not found:
            raise
        # It broke a law once, and not the next time: it depends on more than its arguments.
        broken = found[0]
    else:
        return
    raise broken from broken.__cause__
