"""What a call does beside returning: the clocks it reads, the generators it draws from, what it writes and prints.

Python's profiler hook sees each call of a builtin. What a call leaves changed (a generator's state, the default dtype)
is found by comparing before and after.
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
from types import FrameType
from typing import Any, Final

import torch

from nntrain.testing.laws import Law, LawBrokenError
from nntrain.values.bits import same_bits

_COUNTERS: Final = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
_CLOCKS: Final = (*_COUNTERS, *(f"{name}_ns" for name in _COUNTERS), "localtime", "gmtime", "sleep")
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
"""The functions that `threading` starts a thread with: the second since Python 3.13."""
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
"""Packages that read files as part of Python itself."""


class PurityProbe:
    """Watches this thread within a block; `seen` is what was done that no pure function does, and the law against it.

    Python's garbage collector is off meanwhile: what it runs (finalizers, `gc.callbacks`) would count as the call's.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[Law, str]] = []

    def __enter__(self) -> PurityProbe:
        self._collecting = gc.isenabled()
        gc.disable()
        self._before = sys.getprofile()
        self._outside = sys._getframe(1)
        # cProfile's hook, which cannot be called, cannot be restored either: it stays, and nothing is watched.
        if self._before is None or callable(self._before):
            sys.setprofile(self._hook)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None or callable(self._before):
            sys.setprofile(self._before)
        if self._collecting:
            gc.enable()

    def _hook(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            found = _classify(arg)
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
        self.seen.append((law, f"{said} ({where})"))

    def _frames(self, frame: FrameType) -> Iterator[FrameType]:
        """Yield the frames of the watched call, the innermost first; the last is the function that was called."""
        inner: FrameType | None = frame
        while inner is not None and inner.f_back is not None and inner.f_back is not self._outside:
            yield inner
            inner = inner.f_back


def _is_excused(frame: FrameType, law: Law) -> bool:
    """Return whether Python, torch or nntrain does it for its own purposes: a read may make nntrain write a step."""
    package, _, rest = str(frame.f_globals.get("__name__", "")).partition(".")
    return (
        package in _OTHERS
        or (package == "torch" and law == "determinism")
        or (package == "nntrain" and rest.partition(".")[0] not in {"subscribers", "sinks"})
    )


def _classify(called: Any) -> tuple[Law, str] | None:
    try:
        found = _BUILTINS.get(called)
    except TypeError:  # it cannot be hashed, so it is none of them
        return None
    if found is not None:
        return found
    owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
    if owner is random._inst:  # the functions of random are its methods
        return "determinism", f"draws from Python's global generator, by random.{name}; torch's is seeded anew"
    if isinstance(owner, type) and issubclass(owner, datetime.date) and name in {"now", "utcnow", "today"}:
        return "determinism", f"reads the wall clock, by {owner.__name__}.{name}"
    if isinstance(owner, socket.socket):
        return "effects", f"uses the network, by socket.{name}"
    return None


def process_state() -> dict[str, object]:
    """Return the global state of the process that any code can set, and no training should."""
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


def changed_parts(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Return the names of what changed."""
    return [name for name, value in before.items() if not same_bits(value, after[name])]


def probe_call(call: Callable[[], Any], broken: Callable[[Law, str], LawBrokenError]) -> Any:
    """Return what a call returns. Raises `broken(law, said)` where it does what it must not, or changes the process."""
    before, probe = process_state(), PurityProbe()
    with probe:
        answer = call()
    for law, said in probe.seen:
        raise broken(law, said)
    changed = changed_parts(before, process_state())
    if changed:
        raise broken("manners", f"changed {' and '.join(changed)}")
    return answer
