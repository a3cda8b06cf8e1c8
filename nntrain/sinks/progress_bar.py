"""The progress bar of the phase that runs, drawn by tqdm where somebody looks."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO

from nntrain.ranks.console import is_spokesman
from nntrain.sinks.interest import Interest
from nntrain.sinks.transition import RunInfo, Transition
from nntrain.values.progress import Progress
from nntrain.values.sums import Sums

EVERY: Final = 0.25
"""The seconds between two drawings, at least."""


class ProgressBar:
    """Draw how far the phase is: its means of loss and metrics so far, batches a second, and the time left.

    tqdm draws it: in a notebook as a widget, else on a line of the terminal that is cleared when the phase ends, fails
    or is cancelled. It is drawn four times a second at most, and a shorter phase perhaps not at all. On CUDA nothing
    waits for the numbers: those that have arrived are shown.

    Of several processes that train together rank 0 draws: the means are those of its own part of each batch.

    Limits: with `accumulate` it moves with the steps; what a `Metric` makes of a whole phase, known at its end, is not
    shown.

    `file` is where to, whatever it is. By default that is a terminal, stderr before stdout, or a Jupyter notebook;
    where there is neither, nothing is drawn, and no batch costs anything. `TQDM_DISABLE=1` in the environment draws
    none.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = file
        self._bar: Any = None
        self._opened = Progress()
        self._length: int | None = None
        self._due = 0.0
        """When it may be drawn next, by `time.monotonic()`."""
        self._coming: tuple[Sums, Callable[[], bool]] | None = None
        """Sums on their way from the device, and whether they have arrived."""
        self._said = ""

    @property
    def interest(self) -> Interest:
        """Some batches, by the clock; nothing where nobody looks."""
        if not is_spokesman() or (self.file is None and where_somebody_looks() is None):
            return Interest(places=())
        return Interest(every_batch=False, wants=self._wants)

    def _wants(self, *_: object) -> bool:
        return time.monotonic() >= self._due

    def __call__(self, transition: Transition, /) -> None:
        """Draw where the phase stands, or clear the bar where none runs."""
        if transition.error is not None or transition.state.progress.at != "batch":
            self._close()
        elif self._wants():
            self._draw(transition.run, transition.state.progress, transition.state.sums)
            self._due = time.monotonic() + EVERY

    def _draw(self, run: RunInfo, place: Progress, sums: Sums) -> None:
        if self._bar is not None and (_phase(place) != _phase(self._opened) or place.batch < self._bar.n):
            self._close()
        if self._bar is None:
            self._opened, self._length = place, _length(run, place)
        self._read(sums)
        total = _total(place, self._opened, self._length)
        if self._bar is None:
            self._bar = _opened(self.file, place, total, self._said)
            return
        self._bar.total = total
        self._bar.set_postfix_str(self._said, refresh=False)
        if not self._bar.update(place.batch - self._bar.n):  # it draws where the number is another
            self._bar.refresh()

    def _read(self, sums: Sums) -> None:
        """Take the numbers that have arrived, and have the next ones sent."""
        if self._coming is None:
            self._coming = sums.sent()
        there, arrived = self._coming
        if arrived():
            self._coming = None
            if there.batches:
                loss, *metrics = there.means()
                named = {**({"loss": loss} if there.weighted.has_loss else {})}
                named |= zip(there.weighted.metrics, metrics, strict=True)
                self._said = ", ".join(f"{name}={value:.3f}" for name, value in named.items())

    def _close(self) -> None:
        bar, self._bar = self._bar, None
        self._coming, self._said = None, ""
        if bar is not None:
            bar.close()
            _flush(getattr(bar, "fp", None))  # tqdm leaves the way back to the line's beginning to be written


def where_somebody_looks() -> TextIO | None:
    """Return the stream that a person sees: stderr or else stdout, if it is a terminal or Jupyter's; else None."""
    ipython = sys.modules.get("IPython")  # whoever is in a notebook has it
    shell = ipython.get_ipython() if ipython is not None else None
    if "IPKernelApp" in getattr(shell, "config", ()):
        return sys.stderr
    for stream in (sys.stderr, sys.stdout):
        with suppress(AttributeError, ValueError):  # there is none, or it is closed
            if stream.isatty():
                return stream
    return None


@contextmanager
def above_bars(file: TextIO) -> Iterator[None]:
    """Clear the bars on the terminal of `file`, the caller's own too, while a line is printed there."""
    std = sys.modules.get("tqdm.std")
    bars = getattr(std, "tqdm", None)
    if bars is None:  # then nobody has any
        yield
        return
    with bars.external_write_mode(file):
        _flush(sys.stderr)  # the line may go to the same terminal by another stream
        yield


def _flush(stream: Any) -> None:
    with suppress(AttributeError, ValueError, OSError):  # there is none, it is closed, or nobody reads it
        stream.flush()


def _opened(file: TextIO | None, place: Progress, total: int | None, said: str) -> object:
    """Return a bar, which is drawn at once."""
    if file is None:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]  # it has no py.typed

        file = where_somebody_looks()
    else:
        from tqdm import tqdm  # type: ignore[import-untyped]  # of a notebook, `auto` knows no file
    # It needs no thread to look whether a bar stands still: this one is drawn by the clock.
    bar = type("Bar", (tqdm,), {"monitor_interval": 0})
    label = place.data or place.phase
    return bar(
        desc=f"epoch={place.epoch:02d} | {label:<5}",
        total=total,
        initial=place.batch,
        postfix=said,
        unit=" batches",
        file=file,
        leave=False,
        dynamic_ncols=True,
        mininterval=0,
        miniters=1,
    )


def _phase(place: Progress) -> tuple[object, ...]:
    return place.epoch, place.phase, place.data


def _length(run: RunInfo, place: Progress) -> int | None:
    """Return how many batches the phase's data have, if that is known."""
    name = "train" if place.phase == "train" else f"valid/{place.data}" if place.data else "valid"
    length = run.config.get(f"{name}_batches")
    return length if isinstance(length, int) else None


def _total(place: Progress, opened: Progress, length: int | None) -> int | None:
    """Return how many batches the phase will have: the data's, or fewer where the fit's goal in steps comes before.

    Several batches may make a step, as with `accumulate`: how many is taken from those since the bar was `opened`.
    """
    if place.phase != "train" or place.until is None:
        return length
    steps = place.step - opened.step
    batches_a_step = (place.batch - opened.batch) / steps if steps > 0 else 1.0
    cut = place.batch + math.ceil((place.until - place.step) * batches_a_step)
    return cut if length is None else min(cut, length)
