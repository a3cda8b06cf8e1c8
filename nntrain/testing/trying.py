"""How the kit tries: Hypothesis looks for a run that breaks a law, and then for the smallest such."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nntrain.errors import ConfigError, MissingExtraError
from nntrain.testing.broken import LawBrokenError

try:
    from hypothesis import HealthCheck, Phase, errors, given, settings
    from hypothesis import strategies as st
except ImportError as _missing:
    raise MissingExtraError("nntrain.testing needs Hypothesis: pip install 'nntrain[testing]'.") from _missing

__all__ = ["expect_callable", "st", "tried"]

Drawn = TypeVar("Drawn")


def expect_callable(given: object, argument: str, expected: str) -> None:
    """Refuse an argument that cannot be called, with what was expected."""
    if not callable(given):
        raise ConfigError(f"{argument} is {given!r:.80}; expected {expected}.")


def tried(
    check: Callable[[Drawn], None],
    drawn: st.SearchStrategy[Drawn],
    examples: int,
    *,
    said: Callable[[Drawn], str] = str,
) -> None:
    """Call `check` with up to `examples` things drawn, always the same ones; raise what it raises of the smallest.

    `said` puts what was drawn into words, for a broken law that does not say of which run it is.
    """
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
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
            found.append(error.of(said(one)))
            raise

    try:
        holds()
    except LawBrokenError:
        broken = found[-1]  # of the smallest, which Hypothesis runs last
    except errors.Flaky:
        if not found:
            raise
        # It broke a law once, and not the next time: what it does depends on more than on what it is given.
        broken = found[0]
    else:
        return
    raise broken from broken.__cause__
