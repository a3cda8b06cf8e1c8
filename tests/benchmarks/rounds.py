"""Times that can be divided: everything once a round, in turn, and the ratios within each round.

What else the machine does changes from minute to minute, and hits a whole round alike; so a ratio within a round says
more than one of two means. The order turns from round to round: no one is always the first, or always after the same.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

Name = TypeVar("Name", bound=Hashable)
Timed = Callable[[], float]
"""Does the thing once, whatever it has to prepare, and gives the seconds that count."""


class Ratio(NamedTuple):
    """A ratio over the rounds."""

    median: float
    lowest: float
    highest: float

    @staticmethod
    def of(seconds: list[float], reference: list[float]) -> Ratio:
        """Divide round by round."""
        found = [one / other for one, other in zip(seconds, reference, strict=True)]
        return Ratio(statistics.median(found), min(found), max(found))


@dataclass(frozen=True)
class Rounds(Generic[Name]):
    """The seconds of each in each round, and the errors of those that were allowed to fail and did."""

    seconds: dict[Name, list[float]]
    failures: dict[Name, Exception] = field(default_factory=dict)

    def ratio(self, name: Name, reference: Name) -> Ratio:
        """Give how much longer `name` takes than `reference`."""
        return Ratio.of(self.seconds[name], self.seconds[reference])

    def best(self, name: Name, reference: Name) -> float:
        """Return how much longer `name` takes than `reference`, the shortest round of each compared.

        What else the machine does only ever adds time; of many short rounds some are left alone by it.
        """
        return min(self.seconds[name]) / min(self.seconds[reference])

    def microseconds(self, name: Name, reference: Name | None = None) -> float:
        """Give the median of the time in µs, or of what it is more than the reference's in the same round."""
        seconds = self.seconds[name]
        if reference is not None:
            seconds = [one - other for one, other in zip(seconds, self.seconds[reference], strict=True)]
        return statistics.median(seconds) * 1e6


def interleaved(timed: Mapping[Name, Timed], rounds: int, may_fail: Collection[Name] = ()) -> Rounds[Name]:
    """Time each once a round; one that `may_fail` and does so is left out from there on."""
    names = list(timed)
    seconds: dict[Name, list[float]] = {name: [] for name in names}
    failures: dict[Name, Exception] = {}
    # What the imported libraries hold is then no part of a collection, be it ours or of one that is timed.
    gc.freeze()
    try:
        for number in range(rounds):
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                if name in failures:
                    continue
                gc.collect()  # the garbage of one is not to be paid by the next
                try:
                    seconds[name].append(timed[name]())
                except Exception as error:
                    if name not in may_fail:
                        raise
                    failures[name] = error
    finally:
        gc.unfreeze()
    return Rounds({name: found for name, found in seconds.items() if name not in failures}, failures)


def made_anew(
    make: Callable[[], Mapping[Name, Timed]], times: int, rounds: int, *, warm: int = 0, may_fail: Collection[Name] = ()
) -> Rounds[Name]:
    """Time what is made anew so many times, each time for so many rounds after `warm` ones; of all these rounds.

    How long a loop takes hangs on where its tensors happen to lie in memory, too: by some percent for its whole life.
    """
    seconds: dict[Name, list[float]] = {}
    failures: dict[Name, Exception] = {}
    for _ in range(times):
        found = interleaved(make(), warm + rounds, may_fail)
        failures |= found.failures
        for name, taken in found.seconds.items():
            seconds.setdefault(name, []).extend(taken[warm:])
    return Rounds({name: taken for name, taken in seconds.items() if name not in failures}, failures)
