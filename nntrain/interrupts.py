"""Ctrl-C waits for the end of the step, so that it never finds a state half made."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether Ctrl-C was pressed while it was held back."""

    def __init__(self) -> None:
        self.pressed = False

    def let_through(self, error: KeyboardInterrupt) -> None:
        """Raise the interrupt that was held back."""
        self.pressed = False
        raise error


@contextmanager
def held_back() -> Iterator[Interrupts]:
    """Hold Ctrl-C back for a block, until `let_through`; a second one is raised at once.

    Only where Python's own handler is in place, in the main thread: an application's handler is left alone, and
    other threads are never interrupted.
    """
    interrupts = Interrupts()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield interrupts
        return

    def hold(number: int, frame: FrameType | None) -> None:
        if interrupts.pressed:
            signal.default_int_handler(number, frame)
        interrupts.pressed = True

    signal.signal(signal.SIGINT, hold)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
