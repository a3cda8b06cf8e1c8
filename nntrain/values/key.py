"""Randomness as a value: a seed, and what was folded into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pydantic import Field

from nntrain.values.record import Record

_MASK: Final = (1 << 64) - 1
_ODD: Final = 0x632BE59BD9B4E019


class Key(Record, frozen=True):
    """A source of randomness that is a value: a seed, and what was folded into it.

    All that is random in a training is a function of the key: the shuffle of epoch e of (seed, e), the noise of
    step s of (seed, s). Mixing is splitmix64's finaliser (Steele, Lea, Flood 2014) over seed and folds.

    >>> Key(seed=0).fold_in(3) == Key(seed=0, folds=(3,))
    True
    """

    seed: int = Field(ge=0, lt=1 << 63)
    folds: tuple[int, ...] = ()

    def fold_in(self, *numbers: int) -> Key:
        """Return the key for one use among many, such as one epoch's shuffle."""
        return Key(seed=self.seed, folds=(*self.folds, *numbers))

    def fold(self, *numbers: int) -> Key:
        """Return `fold_in(*numbers)`: this is its former name."""
        return self.fold_in(*numbers)

    @property
    def bits(self) -> int:
        """63 bits, a pure function of the seed and the folds: what a generator is seeded with."""
        return self.derived()

    def derived(self, *numbers: int) -> int:
        """Return the `bits` of `fold_in(*numbers)`, without making the key."""
        return self._mixed(numbers) >> 1

    def stream(self, *numbers: int) -> Callable[[int], int]:
        """Return the function of n that gives the `bits` of `fold_in(*numbers, n)`: for those who ask for many."""
        mixed = self._mixed(numbers)
        return lambda number: _mix(mixed ^ (number * _ODD & _MASK)) >> 1

    def _mixed(self, numbers: tuple[int, ...]) -> int:
        mixed = _mix(self.seed)
        for number in (*self.folds, *numbers):
            mixed = _mix(mixed ^ (number * _ODD & _MASK))
        return mixed


def _mix(number: int) -> int:
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)
