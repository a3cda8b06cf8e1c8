"""What every plot has: the axes that it draws on, text that stays text, and a legend where it hides least."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal

from nntrain.errors import ConfigError
from nntrain.log.report.run_view import colour
from nntrain.log.text import one_line

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.typing import LineStyleType

GREY: Final = "#808080"
"""Of what belongs to no curve: readable on white and on black."""
RED: Final = "#d9352b"
"""Of what is wrong: the same."""
DISTINCT: Final = 10
"""More lines than these cannot be told apart by distinct colours."""
_SOME: Final = 6
_NAMES: Final = 40
"""For more names than these there is no room beside axes."""
_NOT_FINITE: Final = "nntrain: not finite"
_SHORT: Final = 30
"""A line of more points has no symbols at them."""
_INSIDE: Final = 3
"""A legend of more entries than these stands outside, where the figure makes room for it."""
_WIDE: Final = 20
"""Names of more characters than these take too much room beside the axes."""


def axes_of(ax: Axes | None, inches: tuple[float, float] | None = None) -> Axes:
    """Return the axes to draw on: `ax`, else those of a new figure of pyplot's, `inches` wide and high.

    Raises `ConfigError` for what is no `Axes`.
    """
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(layout="constrained", figsize=inches)[1]
    return _checked(ax)


def grid_of(
    ax: Iterable[Axes] | Axes | None, count: int, columns: int, inches: tuple[float, float]
) -> tuple[Axes, ...]:
    """Return at most `count` axes to draw on: those of `ax`, row by row, else as many of a new figure of pyplot's.

    `inches` are the width and height of each. What `ax` has more of is switched off. Raises `ConfigError` for what is
    no `Axes`.
    """
    if ax is None:
        from matplotlib import pyplot

        rows = -(-count // columns)
        figure = pyplot.figure(figsize=(columns * inches[0], rows * inches[1]), layout="constrained")
        return tuple(figure.add_subplot(rows, columns, place + 1) for place in range(count))
    given: Iterable[Axes] = getattr(ax, "flat", ax) if isinstance(ax, Iterable) else [ax]  # as `pyplot.subplots` gives
    axes = [*map(_checked, given)]
    for spare in axes[count:]:
        spare.set_axis_off()
    return tuple(axes[:count])


def _checked(ax: Axes) -> Axes:
    from matplotlib.axes import Axes as Kind

    if not isinstance(ax, Kind):
        raise ConfigError(
            f"ax is a {type(ax).__name__}; expected an Axes, as of `figure, ax = pyplot.subplots()`, or None for a new "
            f"figure. Of an array of several, give one of them."
        )
    return ax


def draw_line(
    axes: Axes, x: Sequence[float], y: Sequence[float], color: str, dash: LineStyleType = "-", *, thin: bool = False
) -> Line2D:
    """Return the line that is drawn. Where a value is not finite it has a gap, and a cross at the bottom.

    A short line has a symbol at each point, and a thin or long one where a point has no neighbour.
    """
    finite = [math.isfinite(value) for value in y]
    around = [False, *finite, False]
    alone = [place for place, here in enumerate(finite) if here and not (around[place] or around[place + 2])]
    marked = alone if thin or len(y) > _SHORT else [*range(len(y))]
    (line,) = axes.plot(
        x,
        [value if here else math.nan for value, here in zip(y, finite, strict=True)],
        color=color,
        linestyle=dash,
        linewidth=1.0 if thin else 1.5,
        marker="o" if marked else "",
        markersize=4,
        markevery=marked,
    )
    crossed = [where for where, here in zip(x, finite, strict=True) if not here]
    if crossed:
        heights = [0.03] * len(crossed)
        axes.plot(
            crossed, heights, "x", color=color, transform=axes.get_xaxis_transform(), clip_on=False, gid=_NOT_FINITE
        )
    return line


def legend(
    axes: Axes, entries: Sequence[tuple[Artist, str]], title: str | None = None, *, inside: int = _INSIDE
) -> None:
    """Add a legend: of up to `inside` entries where the axes are emptiest, else beside them, or above with wide names.

    Where the figure has no layout that makes room, it is always where the axes are emptiest.
    """
    crosses = [line for line in axes.lines if line.get_gid() == _NOT_FINITE]
    entries = [*entries, *((cross, "not finite") for cross in crosses[:1])]
    if not entries:
        return
    figure = axes.get_figure(root=True)
    outside = len(entries) > inside and figure is not None and figure.get_layout_engine() is not None
    wide = any(len(said) > _WIDE for _, said in entries)
    corner: Literal["lower left", "upper left"] = "lower left" if wide else "upper left"
    made = axes.legend(
        [artist for artist, _ in entries],
        [str(place) for place in range(len(entries))],
        title=title,
        loc=corner if outside else "best",
        bbox_to_anchor=((0.0, 1.0) if wide else (1.0, 1.0)) if outside else None,
        fontsize="small",
        title_fontsize="small",
    )
    # Set afterwards: matplotlib leaves out a label that begins with "_", and reads "$" as mathematics.
    for text, (_, said) in zip(made.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(one_line(said, 60))


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of axes, from the top; of very many, every so many."""
    every = -(-len(names) // _NAMES)
    shown = [one_line(name, 32) for name in names[::every]]
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(0, len(names), every), shown, parse_math=False, fontsize="small")


def name_columns(axes: Axes, names: Sequence[str]) -> None:
    """Name the columns 0, 1, ... of axes, from the left; of very many, every so many."""
    every = -(-len(names) // _NAMES)
    shown = [one_line(name, 20) for name in names[::every]]
    angle = 90 if max(map(len, shown)) > 2 else 0
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xticks(range(0, len(names), every), shown, parse_math=False, fontsize="small", rotation=angle)


def colours_of(count: int) -> Sequence[str]:
    """Return colours for so many lines: of a few, distinct ones; of many, a scale from the first to the last."""
    if count <= DISTINCT:
        return [colour(place) for place in range(count)]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["plasma"]
    return [to_hex(scale(0.25 + 0.6 * place / (count - 1))) for place in range(count)]


def some_of(count: int) -> Sequence[int]:
    """Return which of so many lines stand in a legend: all of a few, else some from the first to the last."""
    return range(count) if count <= DISTINCT else [place * (count - 1) // (_SOME - 1) for place in range(_SOME)]


def note(axes: Axes, text: str) -> None:
    """Write a text into the middle of axes that show nothing else."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, wrap=True)
