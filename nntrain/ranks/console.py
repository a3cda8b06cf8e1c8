"""One console for all ranks: what all would say alike is said by rank 0, what is a rank's own is said with its number.

An error that ends all ranks is told by the one that failed, with its traceback; of the others one says whose it was.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import TextIO

from nntrain.errors import RankError
from nntrain.ranks.world import known_world


def is_spokesman() -> bool:
    """Return whether this process prints what all ranks know: rank 0 does, as does a process by itself."""
    return known_world().first


def warn_once(text: str, kind: type[Warning], *, stacklevel: int = 1) -> None:
    """Warn of what every rank finds alike: rank 0 does it for all. `stacklevel` is that of `warnings.warn`."""
    if is_spokesman():
        warnings.warn(text, kind, stacklevel=stacklevel + 1)


@contextmanager
def silent_but_first(file: TextIO) -> Iterator[TextIO]:
    """Give a block the stream to print to, which stdout is meanwhile: `file` on rank 0, on others nowhere."""
    with (
        nullcontext(file) if is_spokesman() else Path(os.devnull).open("w", encoding="utf-8") as said,
        redirect_stdout(said),
    ):
        yield said


def by_rank(text: str) -> str:
    """Return the text of what happened on this rank alone, with its number where there are others."""
    world = known_world()
    return text if world.single else f"rank {world.rank}: {text}"


def tell_errors_once() -> None:
    """From now on, print an uncaught `RankError` about another rank in one line, and on one rank; the rest as ever.

    It stands before the `sys.excepthook` that is there. Calling it again does nothing.
    """
    if not isinstance(sys.excepthook, _Hook):
        sys.excepthook = _Hook(sys.excepthook)


class _Hook:
    """A `sys.excepthook` that leaves to another what it does not tell itself."""

    def __init__(self, other: Callable[[type[BaseException], BaseException, TracebackType | None], object]) -> None:
        self._other = other

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, RankError) or error.rank == known_world().rank:
            self._other(kind, error, trace)
        elif tells(error):
            sys.stderr.write(f"{kind.__name__}: {error}\n")


def tells(error: RankError) -> bool:
    """Return whether this process tells of what ended all ranks: the one that failed, and the lowest of the others."""
    return known_world().rank in {error.rank, 1 if error.rank == 0 else 0}
