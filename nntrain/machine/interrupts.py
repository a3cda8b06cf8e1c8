"""Ctrl-C, and a request to end, wait for the end of the step, so that they never find a state half made."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, MappingProxyType
from typing import Any, Final

from nntrain.errors import Terminated


class Interrupts:
    """Which signal came while it was held back, if one did."""

    def __init__(self) -> None:
        self.pressed: int | None = None
        self.came: int | None = None
        """Which came to this process, where several act on one together: `pressed` is what they agreed on."""

    def made(self) -> BaseException:
        """Make what the signal that was held back comes to."""
        return Terminated() if self.pressed == signal.SIGTERM else KeyboardInterrupt("interrupted")

    def let_through(self, error: BaseException) -> None:
        """Raise the interrupt that was held back."""
        self.pressed = self.came = None
        raise error


_PLAIN: Final[Mapping[int, Any]] = MappingProxyType(
    {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
)
"""What is in place where nobody listens."""


@contextmanager
def held_back(*, terminate: bool = False, shared: bool = False) -> Iterator[Interrupts]:
    """Hold Ctrl-C back for a block, until `let_through`; a second one is raised at once. With `terminate` SIGTERM too.

    A further SIGTERM changes nothing: a launcher hands on what its processes were often sent already.

    Where it is `shared` with other processes, what came is noted only: they are to agree on it.

    Only where Python's own handlers are in place, in the main thread: an application's handler is left alone, and
    other threads are never interrupted.
    """
    interrupts = Interrupts()
    process = os.getpid()

    def hold(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # one that was forked amid a step has none to finish
            signal.signal(number, _PLAIN[number])
            signal.raise_signal(number)
        elif interrupts.pressed is not None or interrupts.came is not None:
            if number == signal.SIGINT:
                signal.default_int_handler(number, frame)
        elif shared:
            interrupts.came = number
        else:
            interrupts.pressed = number

    replaced: list[int] = []
    if threading.current_thread() is threading.main_thread():
        wanted = (signal.SIGINT, signal.SIGTERM) if terminate else (signal.SIGINT,)
        replaced = [number for number in wanted if signal.getsignal(number) == _PLAIN[number]]
    for number in replaced:
        signal.signal(number, hold)
    try:
        yield interrupts
    finally:
        for number in replaced:
            if signal.getsignal(number) is hold:  # else the application has put its own there meanwhile
                signal.signal(number, _PLAIN[number])
    interrupts.pressed = interrupts.pressed or interrupts.came
    if interrupts.pressed is not None:  # after the last look at it
        raise interrupts.made()
