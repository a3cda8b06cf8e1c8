"""Whose turn it is to step a learner."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

from nntrain.errors import BusyError


class Turn:
    """Who steps a learner: one thread, and not from inside its own step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None

    def taken(self) -> AbstractContextManager[bool]:
        """Return the turn, to be held for a block; raise `BusyError` at once if somebody has it.

        It is a bare lock: Python enters and leaves it in one step, so that no interrupt leaves the learner busy.
        """
        if self._lock.locked():
            if self._thread == threading.get_ident():
                raise BusyError(
                    "This learner was asked for a step from inside its own step (by a subscriber, sink, model or "
                    "loader). Use another learner there: learner.replace()."
                )
            raise BusyError(
                "Two threads step one learner at once; it has one set of live tensors. "
                "Give each thread a learner of its own: learner.replace()."
            )
        return self._lock

    def begin(self) -> None:
        """Say that the thread that runs has the turn."""
        self._thread = threading.get_ident()
