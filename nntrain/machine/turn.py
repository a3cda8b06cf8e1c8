"""Whose turn it is to step a learner."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nntrain.errors import BusyError


class Turn:
    """Who steps a learner: one thread, and not from inside its own step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the turn for a block, or raise `BusyError` at once."""
        if not self._lock.acquire(blocking=False):
            if self._thread == threading.get_ident():
                raise BusyError(
                    "This learner was asked for a step from inside its own step (by a subscriber, sink, model or "
                    "loader). Use another learner there: learner.replace()."
                )
            raise BusyError(
                "Two threads step one learner at once; it has one set of live tensors. "
                "Give each thread a learner of its own: learner.replace()."
            )
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None
            self._lock.release()
