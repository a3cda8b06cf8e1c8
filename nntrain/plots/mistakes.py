"""What a model takes for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nntrain.errors import ConfigError
from nntrain.plots.axes import axes_of, name_columns, name_rows
from nntrain.values.looks import ConfusionMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WRITTEN: Final = 25
"""Of more classes than these the counts are not written: they would not be readable."""


def confusion(matrix: ConfusionMatrix, *, ax: Axes | None = None) -> Axes:
    """Return the axes with a confusion matrix: a row for each class, a column for each that it was taken for.

    What is right is blue and what is wrong red, the darker the greater its share of the row. Of up to 25 classes the
    counts are written into the cells.

    Raises `ConfigError` for what is no `ConfusionMatrix`, or not as high and as wide as it has labels.
    """
    from matplotlib.colors import PowerNorm

    if not isinstance(matrix, ConfusionMatrix):
        raise ConfigError(
            f"confusion draws what nntrain.looking.confusion_matrix returns; got a {type(matrix).__name__}."
        )
    labels, size = matrix.labels, len(matrix.labels)
    if not size or {len(matrix.counts), *map(len, matrix.counts)} != {size}:
        raise ConfigError(f"The confusion matrix has {size} labels; expected as many rows and columns, and at least 1.")
    axes = axes_of(ax, (inches := min(12.0, 2.0 + 0.45 * size), inches))
    counts = np.array(matrix.counts, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    right = np.eye(size, dtype=bool)
    for hidden, cmap in ((~right, "Blues"), (right | (counts == 0), "Reds")):
        axes.imshow(np.ma.masked_array(shares, hidden), cmap=cmap, norm=PowerNorm(0.5, 0.0, 1.0))
    if size <= _WRITTEN:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if shares[row, column] > 0.4 else "black"
            axes.text(
                column,
                row,
                _short(matrix.counts[row][column]),
                ha="center",
                va="center",
                color=colour,
                fontsize="small",
            )
    name_rows(axes, labels)
    name_columns(axes, labels)
    axes.set(xlabel="taken for", ylabel="is")
    return axes


def _short(count: int) -> str:
    """Return a count in at most six characters, or so."""
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1e3:,.0f}k" if count < 10**8 else f"{count / 1e6:,.0f}M"
