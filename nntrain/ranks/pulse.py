"""A beat about twice a second, at a batch that all ranks agree on: signals that came, and a clock that is alike."""

from __future__ import annotations

import time
from typing import Final

from nntrain.ranks.ranks import Ranks

_SECONDS: Final = 0.5
_MOST_BATCHES: Final = 1000


class Pulse:
    """Says at the same batch on every rank what came to any of them.

    From beat to beat the ranks agree on how many batches the next is away, so that what is asked costs a batch nothing.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._every = 1
        self._batches = 0
        self._last = time.monotonic()
        self._seconds = 0.0

    def clock(self) -> float:
        """Return seconds that are the same on all ranks: the clock moves at the beats only."""
        return self._seconds

    def beat(self, signal: int | None, *, at_once: bool = False) -> int | None:
        """Count a batch, or anything else that all ranks come to; return the signal that any rank got, at a beat.

        Of several the greatest counts: SIGTERM before SIGINT.
        """
        self._batches += 1
        if not at_once and self._batches < self._every:
            return None
        now = time.monotonic()
        greatest, elapsed = self._ranks.greatest([float(signal or 0), now - self._last])
        self._every = max(1, min(_MOST_BATCHES, round(_SECONDS * self._batches / max(elapsed, 1e-6))))
        self._batches, self._last = 0, now
        self._seconds += elapsed
        return int(greatest) or None
