"""A confusion matrix is drawn as it is: shares as colours, counts as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from nntrain import plots
from nntrain.errors import ConfigError
from nntrain.values.looks import ConfusionMatrix
from tests.plots.drawn import own_axes, render


def matrix(counts: list[list[int]], labels: list[str] | None = None) -> ConfusionMatrix:
    named = labels or [f"class {at}" for at in range(len(counts))]
    return ConfusionMatrix(labels=tuple(named), counts=tuple(map(tuple, counts)))


def numbers(axes: Axes) -> dict[tuple[float, float], str]:
    """Give what is written, by row and column."""
    return {(row, column): one.get_text() for one in axes.texts for column, row in [one.get_position()]}


def test_a_cell_has_its_count_and_the_colour_of_its_share() -> None:
    axes = plots.confusion(matrix([[30, 10, 0], [0, 0, 0], [1, 0, 1_234_567]], ["a", "$\\frac$", "c"]), ax=own_axes())
    assert numbers(axes) == {(0, 0): "30", (0, 1): "10", (2, 0): "1", (2, 2): "1,235k"}
    right, wrong = (image.get_array() for image in axes.images)
    assert right is not None
    assert wrong is not None
    np.testing.assert_allclose(np.ma.compressed(right), [0.75, 0.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(np.ma.compressed(wrong), [0.25, 1 / 1_234_568])
    assert [image.get_cmap().name for image in axes.images] == ["Blues", "Reds"]
    assert [one.get_text() for one in axes.get_yticklabels()] == ["a", "$\\frac$", "c"]
    assert [one.get_text() for one in axes.get_xticklabels()] == ["a", "$\\frac$", "c"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("is", "taken for")
    render(axes)


def test_of_many_classes_no_counts_are_written_and_some_are_named() -> None:
    axes = plots.confusion(matrix(np.eye(100, dtype=int).tolist()), ax=own_axes())
    assert not axes.texts
    assert [one.get_text() for one in axes.get_yticklabels()] == [f"class {at}" for at in range(0, 100, 3)]


def test_a_matrix_of_one_class_or_of_nothing_is_drawn() -> None:
    assert numbers(plots.confusion(matrix([[3]]), ax=own_axes())) == {(0, 0): "3"}
    axes = plots.confusion(matrix([[0, 0], [0, 0]]), ax=own_axes())
    assert not axes.texts
    render(axes)


def test_what_is_no_matrix_is_refused() -> None:
    for wrong in (matrix([[1, 2]], ["one"]), matrix([[1], [2]], ["one"]), matrix([])):
        with pytest.raises(ConfigError, match="expected as many rows and columns"):
            plots.confusion(wrong, ax=own_axes())
    given: Any = [[1]]
    with pytest.raises(ConfigError, match=r"draws what nntrain.looking.confusion_matrix returns; got a list"):
        plots.confusion(given, ax=own_axes())
