"""What a plot shows, read from its axes; and axes that pyplot does not know."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nntrain import EpochStats
from nntrain.values.history import History
from nntrain.values.record import FrozenMapping


def own_axes() -> Axes:
    return Figure().subplots()


def render(axes: Axes) -> None:
    """Draw the figure of axes, which raises for what cannot be drawn, as mathematics that is none."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()


def points(line: Line2D) -> list[tuple[float, float]]:
    """Give the points of a line, NaN for those in its gaps."""
    x, y = line.get_xdata(), line.get_ydata()
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]  # type: ignore[arg-type] # arrays, as drawn


def finite(line: Line2D) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points(line) if math.isfinite(y)]


def curves(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if line.get_marker() != "x"]


def crosses(axes: Axes) -> list[float]:
    return [x for line in axes.lines if line.get_marker() == "x" for x, _ in points(line)]


def legend(axes: Axes) -> list[str]:
    made = axes.get_legend()
    return [] if made is None else [text.get_text() for text in made.get_texts()]


def colour(line: Line2D) -> str:
    return to_hex(line.get_color())


def history(losses: Sequence[float], *, sets: Sequence[str] = ("",)) -> History:
    """Give the history of a run with these losses, in train and, by 1 greater, in eval."""
    found = []
    for epoch, loss in enumerate(losses):
        of = [("train", "", loss), *(("eval", name, loss + 1) for name in sets)]
        for phase, data, value in of:
            found.append(
                EpochStats(
                    epoch=epoch,
                    phase="train" if phase == "train" else "eval",
                    loss=value,
                    metrics=FrozenMapping({"accuracy": value / 10}),
                    samples=4,
                    batches=1,
                    data=data,
                    seconds=0.5,
                )
            )
    return History(found)
