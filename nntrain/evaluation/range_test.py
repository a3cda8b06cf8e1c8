"""What came of a learning rate range test: the losses by rate, and which rate they suggest."""

from __future__ import annotations

import math
from itertools import pairwise

from nntrain.errors import ConfigError
from nntrain.values.record import Record


class RangeTest(Record, frozen=True):
    """The learning rates of a range test, and the smoothed loss of the step that was taken with each.

    `steps` is how many were asked for; where the loss diverged there are fewer. The suggestions leave out the first
    tenth of them and the last five, as fastai does, where three or more are left. They raise `ConfigError` where the
    loss never falls there.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    steps: int

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls the most for the logarithm of the rate."""
        lrs, losses = self._considered
        slopes = [
            (losses[at + 1] - losses[at]) / (math.log(lrs[at + 1]) - math.log(lrs[at])) for at in range(len(lrs) - 1)
        ]
        return lrs[slopes.index(min(slopes))]

    @property
    def valley(self) -> float:
        """The rate amid the longest falling subsequence of the losses, found as fastai finds it."""
        lrs, losses = self._considered
        lengths: list[int] = []
        for at, loss in enumerate(losses):
            lengths.append(1 + max((lengths[other] for other in range(at) if losses[other] > loss), default=0))
        longest = max(lengths)
        third = longest / 3
        return lrs[max(lengths.index(longest) - longest + int(third) + int(third / 2), 0)]

    @property
    def falls(self) -> bool:
        """Whether the loss falls anywhere, so that there are suggestions."""
        _, losses = self._trimmed
        return any(after < before for before, after in pairwise(losses))

    @property
    def _trimmed(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        kept = slice(self.steps // 10, -5)
        return (self.lrs[kept], self.losses[kept]) if len(self.lrs[kept]) > 2 else (self.lrs, self.losses)

    @property
    def _considered(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if not self.falls:
            raise ConfigError(
                f"The loss never falls between the rates {self.lrs[0]:.3g} and {self.lrs[-1]:.3g} ({len(self.lrs)} "
                f"steps), so none can be suggested. Look at it with "
                f"nntrain.plots.range_test; try other start and end, or more steps."
            )
        return self._trimmed

    def __repr__(self) -> str:
        said = f"steepest={self.steepest:.3g}, valley={self.valley:.3g}" if self.falls else "the loss never falls"
        return f"RangeTest({len(self.lrs)} of {self.steps} steps, lr={self.lrs[0]:.3g} to {self.lrs[-1]:.3g}, {said})"

    __str__ = __repr__
