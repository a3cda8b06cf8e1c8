"""What a call does beside answering: the clocks it reads, the generators it draws from, what it writes and prints.

Python's profiler hook is told of each builtin that is called, whoever calls it. What a call leaves behind (a generator
that has moved, another default dtype) is found by looking before and after.
"""

from __future__ import annotations

import _thread
import builtins
import datetime
import gc
import io
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import torch

from nntrain.testing.broken import Law
from nntrain.values.bits import same_bits

_CLOCKS: Final = (
    "time",
    "time_ns",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "process_time",
    "process_time_ns",
    "thread_time",
    "thread_time_ns",
    "localtime",
    "gmtime",
    "sleep",
)
_FILES: Final = (
    "open",
    "write",
    "remove",
    "unlink",
    "rename",
    "replace",
    "mkdir",
    "rmdir",
    "chdir",
    "system",
    "fork",
    "putenv",
    "unsetenv",
    "kill",
)
_THREADS: Final = ("start_new_thread", "start_joinable_thread")
"""What `threading` begins a thread by: the second since Python 3.13."""
_BUILTINS: Final[dict[object, tuple[Law, str]]] = {
    **{getattr(time, name): ("determinism", f"reads the wall clock, by time.{name}") for name in _CLOCKS},
    **{getattr(os, name): ("effects", f"reaches outside, by os.{name}") for name in _FILES if hasattr(os, name)},
    os.urandom: ("determinism", "draws random bytes from the system, by os.urandom"),
    builtins.print: ("effects", "prints"),
    builtins.input: ("effects", "asks whoever sits at the terminal, by input"),
    io.open: ("effects", "opens a file"),
    **{getattr(_thread, name): ("effects", "starts a thread") for name in _THREADS if hasattr(_thread, name)},
}
_OTHERS: Final = ("importlib", "linecache", "tokenize", "zipimport")
"""Packages that read files for Python's own sake."""


@dataclass(frozen=True)
class Seen:
    """Something that a call did, and must not: which law it breaks, in words, and where in the code."""

    law: Law
    said: str


class PurityProbe:
    """Watches this thread while it is on; `seen` is what was done that no pure function does.

    Python's garbage collector waits meanwhile: what it runs (finalizers, `gc.callbacks`) would look like the call's
    doing.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def __enter__(self) -> PurityProbe:
        self._collecting = gc.isenabled()
        gc.disable()
        self._before = sys.getprofile()
        self._outside = sys._getframe(1)
        if self._before is None or callable(self._before):  # cProfile's cannot be put back: it goes on, unwatched
            sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None or callable(self._before):
            sys.setprofile(self._before)
        if self._collecting:
            gc.enable()

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            found = _impurity(arg)
        elif event == "call" and frame.f_code is logging.Logger._log.__code__:
            found = ("effects", "logs, by logging; answer with state.log(event), which the event log writes")
        else:
            return
        if found is None:
            return
        frames = list(self._frames(frame))
        law, said = found
        if any(_is_excused(one, law) for one in frames):
            return
        first = frames[-1]
        where = f"line {first.f_lineno} of {os.path.basename(first.f_code.co_filename)}"  # noqa: PTH119 - a name only
        self.seen.append(Seen(law, f"{said} ({where})"))

    def _frames(self, frame: FrameType) -> Iterator[FrameType]:
        """Give the frames of the watched call, the innermost first; the last is what was called from outside."""
        inner: FrameType | None = frame
        while inner is not None and inner.f_back is not None and inner.f_back is not self._outside:
            yield inner
            inner = inner.f_back


def _is_excused(frame: FrameType, law: Law) -> bool:
    """Tell whether Python or torch act for their own sake, or nntrain: a read may make it write a step."""
    package, _, rest = str(frame.f_globals.get("__name__", "")).partition(".")
    return (
        package in _OTHERS
        or (package == "torch" and law == "determinism")
        or (package == "nntrain" and rest.partition(".")[0] not in {"subscribers", "sinks"})
    )


def _impurity(called: Any) -> tuple[Law, str] | None:
    try:
        found = _BUILTINS.get(called)
    except TypeError:  # what cannot be hashed is none of them
        return None
    if found is not None:
        return found
    owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
    if owner is _PYTHON_GENERATOR:
        return (
            "determinism",
            f"draws from Python's global generator, by random.{name}; torch's is seeded anew",
        )
    if isinstance(owner, type) and issubclass(owner, datetime.date) and name in {"now", "utcnow", "today"}:
        return "determinism", f"reads the wall clock, by {owner.__name__}.{name}"
    if isinstance(owner, socket.socket):
        return "effects", f"uses the network, by socket.{name}"
    return None


_PYTHON_GENERATOR: Final = random._inst  # whose methods random's functions are


def world() -> dict[str, object]:
    """Give what belongs to the process and to no training, and can be set from anywhere."""
    return {
        "Python's global generator": random.getstate(),
        "NumPy's global generator": _numpy_state(),
        "grad mode": torch.is_grad_enabled(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the working directory": os.getcwd(),  # noqa: PTH109 - compared as it is
        "the environment": dict(os.environ),
        "the root logger": (logging.root.level, tuple(logging.root.handlers), logging.root.disabled),
        "the excepthook": sys.excepthook,
    }


def _numpy_state() -> object:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    kind, keys, *rest = numpy.random.get_state()
    return kind, keys.tobytes(), *rest


def changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Name what is not as it was."""
    return [name for name, value in before.items() if not same_bits(value, after[name])]


def watched(call: Callable[[], Any]) -> tuple[Any, list[Seen], list[str]]:
    """Call; give the answer, what it did that it must not, and what of the process is not as it was."""
    before, watch = world(), PurityProbe()
    with watch:
        answer = call()
    return answer, watch.seen, changed(before, world())
